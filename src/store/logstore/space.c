/*
 * space.c - room on the disk: the reserve, and the time of a full disk.
 *
 * Provides: space.h.
 * Used by:  writer, big.c, compaction, background, logstore.c.
 * Threads:  any, as space.h says.
 * Locks:    space.mutex: over a look at the file system (and the probe of one that lies), never
 *           taken by a network loop.
 *
 * Free space is known as of the last look; what the store has written since is subtracted, which
 * counts too much where zeros were written ahead, never too little. Looks come every second while
 * there is plenty, and whenever a quarter of the distance to the reserve has been written.
 */
#include "store/logstore/space.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "store/logstore/logstore.h"

#define LOOK_FAR_MS 1000
#define LOOK_FULL_MS 200
#define PROBE_MS 2000
#define PROBE_BYTES (1024u * 1024)
/* So much more than the reserve must be free before puts are taken again: one part in so many. */
#define HYSTERESIS_PART 16
/* LMDB's short writes end a few pages before the last free byte. */
#define NEARLY_NOTHING (256u * 1024)
/* Of a file system: the largest reserve by default, and the largest segment. */
#define RESERVE_PART_MAX 10
#define SEGMENT_PART_MAX 16
#define SEGMENT_BYTES_MIN (4u * 1024 * 1024)

void space_init(struct logstore *ls)
{
    pthread_mutex_init(&ls->space.mutex, NULL);
    atomic_init(&ls->space.available, UINT64_MAX);
}

void space_fini(struct logstore *ls)
{
    pthread_mutex_destroy(&ls->space.mutex);
}

/* ---- looking ---- */

/* Two segments or 1 % of the disk, whichever is more, but never more than a tenth of it. */
static uint64_t reserve_of(const struct store_config *config, uint64_t total)
{
    uint64_t reserve = 2 * config->segment_bytes;

    if (config->reserve_bytes != STORE_RESERVE_DEFAULT)
        return config->reserve_bytes;
    if (reserve < total / 100)
        reserve = total / 100;
    return reserve < total / RESERVE_PART_MAX ? reserve : total / RESERVE_PART_MAX;
}

/* Is there room although the system has just refused some? */
static bool probe(struct logstore *ls)
{
    static const char zeros[64 * 1024];
    char *path = directory_path(ls, "tmp/probe");
    int fd = path == NULL ? -ENOMEM : io_open(path, O_WRONLY | O_CREAT | O_TRUNC, 0640);
    int rc = fd < 0 ? fd : 0;

    for (unsigned at = 0; rc == 0 && at < PROBE_BYTES; at += (unsigned)sizeof(zeros))
        rc = io_write_full(fd, zeros, sizeof(zeros), at);
    if (fd >= 0) {
        close(fd);
        (void)io_unlink(path);
    }
    free(path);
    return rc == 0;
}

/* The answer is remembered for a while: it costs a file. */
static bool has_room_really_locked(struct logstore *ls)
{
    struct space *s = &ls->space;
    int64_t now = clock_mono_ms();

    if (s->probed_ms == 0 || now - s->probed_ms >= PROBE_MS) {
        s->probed_ms = now;
        s->probe_passed = probe(ls);
    }
    return s->probe_passed;
}

static bool has_healed_locked(struct logstore *ls, uint64_t available, uint64_t reserve)
{
    if (available - reserve < reserve / HYSTERESIS_PART)
        return false;
    return !atomic_load(&ls->space.failed) || has_room_really_locked(ls);
}

static void become_full_locked(struct logstore *ls, uint64_t available, uint64_t reserve)
{
    struct space *s = &ls->space;

    atomic_store(&s->full, true);
    s->refusals_at_start = atomic_load(&s->refusals);
    log_error("the disk of %s is full: %" PRIu64 " bytes left, %" PRIu64 " reserved; what needs "
              "more room is refused, deletes are taken",
              ls->dir, available, reserve);
}

static void become_free_locked(struct logstore *ls, uint64_t available)
{
    struct space *s = &ls->space;

    atomic_store(&s->failed, false);
    atomic_store(&s->full, false);
    log_info("the disk of %s has room again: %" PRIu64 " bytes left; %" PRIu64
             " writes were refused",
             ls->dir, available, atomic_load(&s->refusals) - s->refusals_at_start);
}

static void look_locked(struct logstore *ls)
{
    struct space *s = &ls->space;
    uint64_t before = atomic_load(&s->taken);
    uint64_t available;
    uint64_t total;
    uint64_t reserve;

    atomic_store(&s->looked_ms, clock_mono_ms());
    /* Where nothing can be learnt, a write that fails tells. */
    if (io_space(ls->log_dir_fd, &available, &total) != 0) {
        available = UINT64_MAX;
        total = 0;
    }
    reserve = total == 0 ? 0 : reserve_of(&ls->config, total);
    atomic_store(&s->available, available);
    atomic_store(&s->total, total);
    atomic_store(&s->reserve, reserve);
    atomic_fetch_sub(&s->taken, before);
    if (!atomic_load(&s->full) && available <= reserve && reserve > 0)
        become_full_locked(ls, available, reserve);
    else if (atomic_load(&s->full) && available >= reserve &&
             has_healed_locked(ls, available, reserve))
        become_free_locked(ls, available);
}

static void look(struct logstore *ls)
{
    pthread_mutex_lock(&ls->space.mutex);
    look_locked(ls);
    pthread_mutex_unlock(&ls->space.mutex);
}

void space_begin(struct logstore *ls)
{
    uint64_t most;

    look(ls);
    most = atomic_load(&ls->space.total) / SEGMENT_PART_MAX / 4096 * 4096;
    if (most == 0 || most >= ls->config.segment_bytes)
        return;
    ls->config.segment_bytes = most > SEGMENT_BYTES_MIN ? most : SEGMENT_BYTES_MIN;
    log_info("the disk of %s is small: its segments are of %" PRIu64 " bytes", ls->dir,
             ls->config.segment_bytes);
    look(ls);
}

/* ---- asking ---- */

/* Bytes that may be put, as far as is known. */
static uint64_t room(const struct space *s)
{
    uint64_t available = atomic_load_explicit(&s->available, memory_order_relaxed);
    uint64_t used = atomic_load_explicit(&s->taken, memory_order_relaxed) +
                    atomic_load_explicit(&s->reserve, memory_order_relaxed);

    return available > used ? available - used : 0;
}

void space_tick(struct logstore *ls)
{
    struct space *s = &ls->space;
    int64_t age = clock_mono_ms() - atomic_load(&s->looked_ms);
    uint64_t taken = atomic_load(&s->taken);

    if (age >= LOOK_FAR_MS || taken > room(s) / 3 || (age >= LOOK_FULL_MS && atomic_load(&s->full)))
        look(ls);
}

bool space_has_room(const struct logstore *ls, uint64_t bytes)
{
    const struct space *s = &ls->space;

    return !atomic_load_explicit(&s->full, memory_order_relaxed) &&
           (atomic_load_explicit(&s->reserve, memory_order_relaxed) == 0 || bytes <= room(s));
}

int space_check_put(struct logstore *ls, uint64_t bytes)
{
    if (space_has_room(ls, bytes))
        return 0;
    atomic_fetch_add(&ls->space.refusals, 1);
    return -ENOSPC;
}

int space_check_put_now(struct logstore *ls, uint64_t bytes)
{
    struct space *s = &ls->space;

    if (space_has_room(ls, bytes))
        return 0;
    /* While the disk is full not for every write: refusals are many. */
    if (atomic_load(&s->full) ? clock_mono_ms() - atomic_load(&s->looked_ms) >= LOOK_FULL_MS
                              : atomic_load(&s->taken) > 0)
        look(ls);
    return space_check_put(ls, bytes);
}

void space_took(struct logstore *ls, uint64_t bytes)
{
    atomic_fetch_add_explicit(&ls->space.taken, bytes, memory_order_relaxed);
}

void space_failed(struct logstore *ls, int rc)
{
    struct space *s = &ls->space;

    if (rc != -ENOSPC && rc != -EDQUOT)
        return;
    pthread_mutex_lock(&s->mutex);
    look_locked(ls);
    if (!atomic_load(&s->full) && !has_room_really_locked(ls)) {
        atomic_store(&s->failed, true);
        become_full_locked(ls, atomic_load(&s->available), atomic_load(&s->reserve));
    }
    pthread_mutex_unlock(&s->mutex);
}

uint64_t space_for_compaction(struct logstore *ls)
{
    struct space *s = &ls->space;
    uint64_t available;
    uint64_t left;

    look(ls);
    available = atomic_load(&s->available);
    left = atomic_load(&s->reserve) / 4;
    return available > left ? available - left : 0;
}

bool space_is_full(const struct logstore *ls)
{
    return atomic_load_explicit(&ls->space.full, memory_order_relaxed);
}

/* ---- telling ---- */

const char *space_reason(const struct logstore *ls)
{
    static _Thread_local char text[96];
    const struct space *s = &ls->space;

    if (!space_is_full(ls))
        return NULL;
    snprintf(text, sizeof(text), "disk full: %" PRIu64 " bytes left, %" PRIu64 " reserved",
             atomic_load(&s->available), atomic_load(&s->reserve));
    return text;
}

int space_error(struct logstore *ls, int rc)
{
    if (rc != -EIO)
        return rc;
    look(ls);
    return atomic_load(&ls->space.available) < NEARLY_NOTHING ? -ENOSPC : rc;
}

int space_stat(const struct logstore *ls, struct buf *out)
{
    const struct space *s = &ls->space;
    uint64_t available = atomic_load(&s->available);

    return buf_printf(out,
                      "disk_free_bytes %" PRIu64 "\ndisk_reserve_bytes %" PRIu64
                      "\ndisk_full %d\ndisk_full_refusals %" PRIu64 "\n",
                      available == UINT64_MAX ? 0 : available, atomic_load(&s->reserve),
                      space_is_full(ls), atomic_load(&s->refusals));
}
