/*
 * logstore.c - the engine's face: opening, closing, ports, figures.
 *
 * Provides: logstore_open() and the table of the engine's calls.
 * Used by:  main, and store.c through the table.
 * Threads:  open and close on the main thread; the rest as store.h says.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "store/logstore/logstore.h"

/* So many ports beyond those announced find a place in the index's table of readers. */
#define PORTS_SPARE 2

/* ---- ports ---- */

static int port_open(struct store *store, struct aio *aio, struct store_port **out)
{
    struct logstore *ls = logstore_of(store);
    struct logstore_port *p;
    int rc;

    if (atomic_fetch_add(&ls->port_count, 1) >= ls->config.reader_ports + PORTS_SPARE) {
        atomic_fetch_sub(&ls->port_count, 1);
        log_error("more than %u threads want to use the store %s", ls->config.reader_ports,
                  ls->dir);
        return -EMFILE;
    }
    p = aligned_alloc(_Alignof(struct logstore_port), sizeof(*p));
    if (p == NULL) {
        atomic_fetch_sub(&ls->port_count, 1);
        return -ENOMEM;
    }
    memset(p, 0, sizeof(*p));
    p->scratch = malloc(PORT_SCRATCH);
    rc = p->scratch == NULL ? -ENOMEM : store_port_init(&p->base, store, aio);
    if (rc != 0) {
        atomic_fetch_sub(&ls->port_count, 1);
        free(p->scratch);
        free(p);
        return rc;
    }
    grace_add(&ls->grace, &p->grace);
    *out = &p->base;
    return 0;
}

static void port_close(struct store_port *port)
{
    struct logstore_port *p = (struct logstore_port *)port;

    grace_remove(&logstore_of(port->store)->grace, &p->grace);
    grace_wait(&logstore_of(port->store)->grace); /* the writer may still be about to wake it */
    if (p->reader != NULL)
        index_reader_close(p->reader);
    atomic_fetch_sub(&logstore_of(port->store)->port_count, 1);
    store_port_fini(port);
    free(p->scratch);
    free(p);
}

/* ---- writes ---- */

static void prepare(struct store_write *w)
{
    /* A spooled value has its own sum in its file; the small record's body is key and
     * attributes. */
    size_t value_len = w->spool != NULL ? 0 : w->value_len;

    w->hash = hash_slice(w->key);
    if (w->op == STORE_PUT)
        w->body_sum = hash_bytes(w->key.ptr, w->key.len + w->attrs.len + value_len);
}

/* Writes whose value is in a file of its own take the way through the pool; the others go to the
 * writer together. */
static void port_write(struct store_port *port, struct store_write *first)
{
    struct logstore *ls = logstore_of(port->store);
    struct store_write *chain = NULL;
    struct store_write *last = NULL;
    uint32_t count = 0;

    while (first != NULL) {
        struct store_write *next = first->next;

        if (first->spool != NULL) {
            big_finish_write(ls, first);
        } else {
            if (last == NULL)
                chain = first;
            else
                last->next = first;
            last = first;
            count++;
        }
        first = next;
    }
    if (last == NULL)
        return;
    last->next = NULL;
    writer_hand_over(ls, chain, last, count);
}

/* ---- figures ---- */

static enum store_state state(const struct store *store)
{
    return (enum store_state)atomic_load(&((const struct logstore *)store)->state);
}

static unsigned progress(const struct store *store)
{
    return atomic_load(&((const struct logstore *)store)->progress);
}

static bool writable(const struct store *store, const char **reason)
{
    const struct logstore *ls = (const struct logstore *)store;

    if (atomic_load(&ls->read_only)) {
        const char *failure = atomic_load(&ls->failure);

        *reason = failure != NULL ? failure : "read-only";
        return false;
    }
    if (state(store) != STORE_SERVING) {
        *reason = "starting";
        return false;
    }
    *reason = space_reason(ls);
    return *reason == NULL;
}

static int64_t now_ms(const struct store *store)
{
    return keyspace_now_ms((const struct logstore *)store);
}

static uint64_t count(const struct store *store)
{
    const struct logstore *ls = (const struct logstore *)store;
    int64_t pending_ms = atomic_load(&ls->pending_ms);

    if (pending_ms != 0 && pending_ms <= keyspace_now_ms(ls))
        return 0; /* the writer is about to say so */
    return atomic_load(&ls->live_count);
}

static int stat(struct store *store, struct buf *out)
{
    struct logstore *ls = logstore_of(store);
    uint64_t rows = 0;
    uint64_t index_bytes = 0;
    struct listing_figures scans;
    int rc;

    if (state(store) != STORE_SERVING)
        return buf_printf(out, "store_rebuild_percent %u\n", progress(store));
    (void)index_figures(ls->index, &rows, &index_bytes);
    listing_figures(ls, &scans);
    rc = buf_printf(
        out,
        "log_seq %" PRIu64 "\nlog_synced_seq %" PRIu64 "\nlog_segment %" PRIu64
        "\nlog_appended_bytes %" PRIu64 "\nlog_syncs %" PRIu64 "\nlog_sync_microseconds %" PRIu64
        "\nlog_batches %" PRIu64 "\nlog_batch_writes %" PRIu64 "\ndelta_keys %zu\ndelta_bytes %zu"
        "\nscan_bytes %zu\nindex_rows %" PRIu64 "\nindex_bytes %" PRIu64 "\ndamaged_reads %" PRIu64
        "\nread_only %d\n",
        atomic_load(&ls->marks.written_seq), atomic_load(&ls->marks.synced_seq),
        atomic_load(&ls->log.active_number), atomic_load(&ls->appended_bytes),
        atomic_load(&ls->syncs), atomic_load(&ls->sync_us), atomic_load(&ls->batches),
        atomic_load(&ls->batch_writes), scans.delta_keys, scans.delta_bytes, scans.kept_bytes, rows,
        index_bytes, atomic_load(&ls->damaged_reads), atomic_load(&ls->read_only));
    if (rc == 0)
        rc = checkpoint_stat(ls, out);
    if (rc == 0)
        rc = big_stat(ls, out);
    if (rc == 0)
        rc = sweep_stat(ls, out);
    if (rc == 0)
        rc = compact_stat(ls, out);
    if (rc == 0)
        rc = buf_printf(out, "log_open_files %zu\n", atomic_load(&ls->segment_cache.open_files));
    if (rc == 0)
        rc = index_cold_stat(&ls->index_cold, out);
    return rc != 0 ? rc : space_stat(ls, out);
}

static void compact(struct store *store)
{
    compact_now(logstore_of(store));
}

/* ---- closing ---- */

/* Everything into the index, then the mark of a clean stop behind it: the next start replays one
 * record. */
static int settle(struct logstore *ls)
{
    struct index_meta meta;
    struct buf vectors = {0};
    struct delta *frozen = atomic_load(&ls->frozen);
    int rc = log_sync(ls);

    if (rc == 0 && frozen != NULL)
        rc = checkpoint_write(ls, frozen, &ls->checkpoint.meta, ls->checkpoint.drop_first);
    if (rc == 0)
        rc = checkpoint_meta(ls, &meta, &vectors);
    if (rc == 0)
        rc = checkpoint_write(ls, atomic_load(&ls->active), &meta, ls->flushed_since_checkpoint);
    buf_free(&vectors);
    /* Without the checkpoint the mark is still true: the log is whole. */
    if (rc != 0)
        log_warn("no last checkpoint of %s: %s; the next start takes longer", ls->dir,
                 strerror(-space_error(ls, rc)));
    if (atomic_load(&ls->read_only))
        return -EROFS; /* the log is not whole for certain */
    rc = writer_mark_clean(ls);
    if (rc != 0)
        log_error("cannot mark the clean stop of %s: %s", ls->dir, strerror(-rc));
    return rc;
}

static void free_store(struct logstore *ls)
{
    if (ls->writer_reader != NULL)
        index_reader_close(ls->writer_reader);
    listing_free(ls->listing);
    compact_fini(ls);
    backup_fini(ls);
    index_cold_fini(&ls->index_cold);
    if (ls->index != NULL)
        index_close(ls->index);
    delta_free(atomic_load(&ls->active));
    delta_free(atomic_load(&ls->frozen));
    log_fini(ls);
    big_fini(ls);
    space_fini(ls);
    directory_close(ls);
    buf_free(&ls->checkpoint.meta_vectors);
    pthread_cond_destroy(&ls->background_wanted);
    pthread_mutex_destroy(&ls->background_mutex);
    pthread_cond_destroy(&ls->checkpoint.wanted);
    pthread_cond_destroy(&ls->checkpoint.done);
    pthread_mutex_destroy(&ls->checkpoint.mutex);
    pthread_cond_destroy(&ls->start_changed);
    pthread_mutex_destroy(&ls->start_mutex);
    pthread_mutex_destroy(&ls->index_mutex);
    pthread_mutex_destroy(&ls->call_mutex);
    pthread_mutex_destroy(&ls->store_mutex);
    grace_fini(&ls->grace);
    free(ls->installing.old);
    free(ls->dir);
    free(ls);
}

static void join_recovery(struct logstore *ls)
{
    if (ls->recovery_runs)
        pthread_join(ls->recovery, NULL);
    ls->recovery_runs = false;
}

static int close_store(struct store *store)
{
    struct logstore *ls = logstore_of(store);
    int rc = 0;

    atomic_store(&ls->start_cancelled, true);
    join_recovery(ls);
    compact_end(ls);
    background_end(ls);
    writer_end(ls);
    if (atomic_load(&ls->read_only))
        rc = -EROFS; /* it was said: this is no clean stop */
    else if (atomic_load(&ls->state) == STORE_SERVING)
        rc = settle(ls);
    big_end(ls);
    free_store(ls);
    return rc;
}

static const struct store_engine logstore_engine = {
    .port_open = port_open,
    .port_close = port_close,
    .port_run = store_port_complete,
    .get = reader_get,
    .write = port_write,
    .prepare = prepare,
    .spool_open = big_spool_open,
    .scan = listing_scan,
    .state = state,
    .progress = progress,
    .writable = writable,
    .count = count,
    .now_ms = now_ms,
    .close = close_store,
    .stat = stat,
    .compact = compact,
    .backup_begin = backup_begin,
    .backup_renew = backup_renew,
    .backup_end = backup_end,
};

/* ---- opening ---- */

static void init_cond(pthread_cond_t *cond)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

static struct logstore *new_store(const struct store_config *config)
{
    struct logstore *ls = aligned_alloc(_Alignof(struct logstore), sizeof(*ls));

    if (ls == NULL)
        return NULL;
    memset(ls, 0, sizeof(*ls));
    ls->base.engine = &logstore_engine;
    ls->config = *config;
    if (ls->config.checkpoint_entries == 0)
        ls->config.checkpoint_entries = CHECKPOINT_ENTRIES;
    ls->lock_fd = ls->log_dir_fd = -1;
    atomic_store(&ls->first_expiry_ms, INT64_MAX);
    pthread_mutex_init(&ls->store_mutex, NULL);
    index_cold_init(&ls->index_cold, config->cold_index, config->lock_index);
    grace_init(&ls->grace);
    grace_add(&ls->grace, &ls->writer_grace);
    init_cond(&ls->background_wanted);
    pthread_mutex_init(&ls->background_mutex, NULL);
    init_cond(&ls->checkpoint.wanted);
    init_cond(&ls->checkpoint.done);
    init_cond(&ls->start_changed);
    pthread_mutex_init(&ls->checkpoint.mutex, NULL);
    pthread_mutex_init(&ls->start_mutex, NULL);
    pthread_mutex_init(&ls->index_mutex, NULL);
    pthread_mutex_init(&ls->call_mutex, NULL);
    big_init(ls);
    space_init(ls);
    atomic_store(&ls->active, delta_new(0));
    ls->listing = listing_new(ls);
    backup_init(ls);
    ls->dir = strdup(config->dir);
    if (log_init(ls) != 0 || compact_init(ls) != 0 || ls->dir == NULL || ls->listing == NULL ||
        atomic_load(&ls->active) == NULL) {
        free_store(ls);
        return NULL;
    }
    return ls;
}

static void *recovery_main(void *arg)
{
    struct logstore *ls = arg;
    int rc;

    pthread_setname_np(pthread_self(), "tt-recovery");
    rc = recover_run(ls);

    atomic_store(&ls->state, rc == 0 ? STORE_SERVING : STORE_FAILED);
    pthread_mutex_lock(&ls->start_mutex);
    ls->start_rc = rc;
    ls->start_ended = true;
    pthread_cond_broadcast(&ls->start_changed);
    pthread_mutex_unlock(&ls->start_mutex);
    return NULL;
}

/* Returns when the start has ended, or is a rebuild that has taken early_ms. */
static void wait_for_start(struct logstore *ls, int64_t early_ms)
{
    struct timespec until = clock_mono_after(early_ms);

    pthread_mutex_lock(&ls->start_mutex);
    while (!ls->start_ended) {
        if (!ls->start_rebuilding)
            pthread_cond_wait(&ls->start_changed, &ls->start_mutex);
        else if (pthread_cond_timedwait(&ls->start_changed, &ls->start_mutex, &until) == ETIMEDOUT)
            break;
    }
    pthread_mutex_unlock(&ls->start_mutex);
}

int logstore_open(const struct store_config *config, int64_t early_ms, struct store **out)
{
    struct logstore *ls = new_store(config);
    int rc;

    if (ls == NULL)
        return -ENOMEM;
    segment_install_guard();
    rc = -pthread_create(&ls->recovery, NULL, recovery_main, ls);
    if (rc != 0) {
        free_store(ls);
        return rc;
    }
    ls->recovery_runs = true;
    wait_for_start(ls, early_ms);
    if (state(&ls->base) != STORE_STARTING)
        join_recovery(ls);
    if (state(&ls->base) == STORE_FAILED) {
        rc = ls->start_rc;
        (void)close_store(&ls->base);
        return rc;
    }
    *out = &ls->base;
    return 0;
}
