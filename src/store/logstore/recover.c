/*
 * recover.c - from a locked directory to a store that serves: the order of the steps of a start.
 *
 * Provides: recover_run().
 * Used by:  logstore.c, on a thread of its own (a long rebuild lets the server open its port before
 *           the end).
 * Threads:  owns the whole store until it sets the state.
 *
 *   1 STORE: who we are; a copied directory is noticed
 *   2 segments: headers, in an unbroken chain
 *   3 index: usable, of this store, within the log
 *   4 replay from the index's position
 *   5 a bad spot: the end, a torn tail (cut), or damage (refuse)
 *   6 a new writer and history where a tail may be lost
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "store/logstore/recover.h"

/* ---- 1: identity ---- */

static int check_node(struct logstore *ls, bool *renew)
{
    uint16_t wanted = ls->config.node;

    if (wanted == 0 || wanted == ls->id.node)
        return 0;
    if (ls->id.node != 0) {
        log_error("the store in %s belongs to server id %u, not %u: start it with -sid %u, or name "
                  "another directory",
                  ls->dir, ls->id.node, wanted, ls->id.node);
        return -EINVAL;
    }
    ls->id.node = wanted;
    *renew = true;
    return 0;
}

static int load_identity(struct recovery *rc, bool *renew)
{
    struct logstore *ls = rc->ls;
    struct identity place = {0};
    int result;

    identity_of_place(ls->lock_fd, &place);
    result = rc->is_new ? identity_new(ls->config.node, &ls->id) : identity_read(ls->dir, &ls->id);
    if (result != 0) {
        log_error("cannot read %s/STORE: %s", ls->dir,
                  result == -EUCLEAN ? "it is damaged or of another format" : strerror(-result));
        return result;
    }
    if (!rc->is_new && (place.device != ls->id.device || place.inode != ls->id.inode ||
                        strcmp(place.machine, ls->id.machine) != 0)) {
        log_info("the data directory %s was copied or moved: it begins a new history", ls->dir);
        *renew = true;
    }
    ls->salt = identity_salt(&ls->id);
    rc->on_disk = ls->id;
    ls->id.device = place.device;
    ls->id.inode = place.inode;
    memcpy(ls->id.machine, place.machine, sizeof(place.machine));
    return check_node(ls, renew);
}

/* ---- 2 and 3: segments and index ---- */

static int bad_segment(const struct segment *s, const char *what)
{
    log_error("%s %s; not starting. Put back the files from a backup or a peer's copy, or repair "
              "the store offline",
              s->path, what);
    return -EUCLEAN;
}

static int open_index(struct recovery *rc, bool fresh)
{
    struct logstore *ls = rc->ls;
    char *path = directory_path(ls, "index");
    unsigned readers = ls->config.reader_ports + LISTING_READERS + INDEX_COLD_READERS + 4;
    int result = path == NULL ? -ENOMEM : 0;

    if (result == 0 && fresh)
        result = index_remove(path);
    if (result == 0)
        result = index_open(path, readers, &ls->index);
    if (result == -EUCLEAN && !fresh) {
        log_warn("the index of %s cannot be used; it is rebuilt from the log", ls->dir);
        result = index_remove(path);
        if (result == 0)
            result = index_open(path, readers, &ls->index);
    }
    if (result == 0)
        result = io_sync_dir(path); /* an index that was removed must not come back */
    if (result != 0)
        log_error("cannot open the index of %s: %s", ls->dir, strerror(-result));
    free(path);
    return result;
}

/* True if the position lies in this log: *at is the segment's place in rc->segments, *offset the
 * byte in it. A closed segment that ended with the position may have been compacted since. */
static bool find_position(const struct recovery *rc, const struct index_meta *meta, size_t *at,
                          uint64_t *offset)
{
    for (size_t i = 0; i < rc->count; i++) {
        const struct segment *s = rc->segments[i];

        *at = i;
        *offset = meta->offset;
        if (s->number == meta->segment)
            return meta->offset <= atomic_load(&s->end);
        if (s->compacted && s->last_seq == meta->seq && i + 1 < rc->count) {
            *at = i + 1;
            *offset = rc->segments[i + 1]->header_bytes;
            return true;
        }
    }
    return false;
}

/* Takes the state from the index. 0; -ENOENT: rebuild the index; -EUCLEAN: refuse; -errno. */
static int take_meta(struct recovery *rc, const struct index_meta *meta, size_t *at,
                     uint64_t *offset)
{
    struct logstore *ls = rc->ls;
    int result = chain_settle(rc, meta);

    if (result == -ESTALE) {
        log_warn("the index of %s names a segment that is not there, and that the log does not "
                 "need; it is rebuilt from the log",
                 ls->dir);
        return -ENOENT;
    }
    if (result != 0)
        return result;
    if (!find_position(rc, meta, at, offset)) {
        log_error("the log of %s ends before its last checkpoint (segment %" PRIu32
                  ", offset %" PRIu64 "): files are missing or cut; not starting",
                  ls->dir, meta->segment, meta->offset);
        return -EUCLEAN;
    }
    rc->seq = meta->seq;
    keyspace_begin(ls, meta);
    return 0;
}

/* The index's position, if it can be used. 0; -ENOENT: rebuild the index; -errno. */
static int read_meta(struct recovery *rc, struct index_meta *meta, char *room)
{
    struct logstore *ls = rc->ls;
    int result = index_read_meta(ls->index, meta, room);

    if (result == -EUCLEAN) /* said already */
        return -ENOENT;
    if (result == 0 && memcmp(meta->store_uuid, ls->id.uuid, sizeof(meta->store_uuid)) != 0) {
        log_warn("the index of %s belongs to another store; it is rebuilt from the log", ls->dir);
        return -ENOENT;
    }
    if (result == 0 && !vectors_decode(meta->vectors, &ls->vectors))
        return -ENOENT;
    return result;
}

/* From the beginning of the log, into an empty index. */
static int begin_rebuild(struct recovery *rc, size_t *at, uint64_t *offset)
{
    struct logstore *ls = rc->ls;
    int result;

    index_close(ls->index);
    ls->index = NULL;
    result = open_index(rc, true);
    if (result == 0)
        result = chain_settle(rc, NULL);
    if (result != 0)
        return result;
    *at = 0;
    *offset = rc->count > 0 ? rc->segments[0]->header_bytes : 0;
    rc->seq = rc->count > 0 ? rc->segments[0]->first_seq - 1 : 0;
    rc->rebuild = rc->count > 0;
    ls->vectors.count = ls->vectors.removed_count = 0;
    ls->vectors.next_big_file = 1;
    return 0;
}

/* Where the replay begins. */
static int find_start(struct recovery *rc, size_t *at, uint64_t *offset)
{
    char *room = malloc(INDEX_VECTORS_MAX);
    struct index_meta meta;
    int result = room == NULL ? -ENOMEM : read_meta(rc, &meta, room);

    if (result == 0)
        result = take_meta(rc, &meta, at, offset);
    if (result == -ENOENT)
        result = begin_rebuild(rc, at, offset);
    free(room);
    return result;
}

/* ---- 4 and 5: replay ---- */

static void tell_rebuilding(struct logstore *ls)
{
    pthread_mutex_lock(&ls->start_mutex);
    ls->start_rebuilding = true;
    pthread_cond_broadcast(&ls->start_changed);
    pthread_mutex_unlock(&ls->start_mutex);
}

static int handle_bad_spot(struct recovery *rc, size_t i, uint64_t offset)
{
    int result = tail_judge(rc, i, offset);

    return result == 1 ? tail_cut(rc, i, offset) : result;
}

/* How long the file of segment i must be, by what was synced: segments before the position and,
 * with `always`, all that another one follows hold all of their records. */
static uint64_t synced_length(const struct recovery *rc, size_t i, size_t at, uint64_t offset)
{
    bool whole = i < at || (i + 1 < rc->count && rc->ls->id.sync == STORE_SYNC_ALWAYS);

    return whole ? atomic_load(&rc->segments[i]->end) : i == at ? offset : 0;
}

/* Behind that a file may be shorter than the next header says: there the replay ends. */
static int check_lengths(struct recovery *rc, size_t at, uint64_t offset)
{
    for (size_t i = 0; i < rc->count; i++)
        if (rc->links[i].file_bytes < synced_length(rc, i, at, offset))
            return bad_segment(rc->segments[i], "is shorter than its records");
    return 0;
}

/* Applies everything from (at, offset) on; *tail: where the log ends in the last segment. */
static int replay(struct recovery *rc, size_t at, uint64_t offset, uint64_t *tail)
{
    *tail = offset;
    rc->replay_from = at;
    for (size_t i = at; i < rc->count; i++) {
        uint64_t end = atomic_load(&rc->segments[i]->end);

        rc->total_bytes += end - (i == at ? offset : rc->segments[i]->header_bytes);
    }
    for (size_t i = at; i < rc->count; i++) {
        struct segment *s = rc->segments[i];
        uint64_t from = i == at ? offset : s->header_bytes;
        enum replay_end how;
        int result;

        *tail = from;
        if (i > at && s->first_seq != rc->seq + 1)
            return bad_segment(s, "does not continue the numbers of the segment before it");
        result = replay_segment(rc, i, tail, atomic_load(&s->end), &how);
        if (result == 0 && how == REPLAY_BAD_SPOT)
            result = handle_bad_spot(rc, i, *tail);
        if (result != 0)
            return result;
        if (s->compacted)
            rc->seq = s->last_seq;
        segment_cache_trim(&rc->ls->segment_cache, &rc->ls->grace);
        atomic_store(&s->trusted_from, from == s->header_bytes ? 0 : from);
    }
    return 0;
}

int recover_sync(struct segment *s, int (*sync)(int fd))
{
    struct segment_file *f;
    int result = segment_open(s, &f);

    if (result != 0)
        return result;
    result = sync(f->fd);
    segment_file_unref(f);
    return result;
}

/* What a killed process wrote, names of files too, may be in memory only: readers must not see it
 * before it is on the disk. */
static int sync_replayed(struct recovery *rc, size_t at)
{
    const char *what = rc->ls->dir;
    char *dir = directory_path(rc->ls, "log");
    int result = dir == NULL ? -ENOMEM : io_sync_dir(dir);

    for (size_t i = at; result == 0 && i < rc->count; i++) {
        what = rc->segments[i]->path;
        result = recover_sync(rc->segments[i], io_fdatasync);
    }
    if (result != 0)
        log_error("cannot sync %s: %s", what, strerror(-result));
    free(dir);
    return result;
}

/* ---- 6: serving ---- */

/* A compaction that did not come to its end: what it was writing. */
static int remove_unfinished(struct recovery *rc)
{
    char *path = directory_path(rc->ls, "tmp");
    DIR *dir = path == NULL ? NULL : opendir(path);
    struct dirent *entry;
    int result = path == NULL ? -ENOMEM : dir == NULL ? -errno : 0;

    while (result == 0 && (entry = readdir(dir)) != NULL) {
        char *file;

        if (strncmp(entry->d_name, "compact-", 8) != 0)
            continue;
        if (asprintf(&file, "%s/%s", path, entry->d_name) == -1) {
            result = -ENOMEM;
            break;
        }
        (void)io_unlink(file);
        free(file);
    }
    if (dir != NULL)
        closedir(dir);
    free(path);
    return result;
}

static int publish(struct recovery *rc)
{
    int result = chain_remove_superseded(rc);

    rc->last = rc->count > 0 ? rc->segments[rc->count - 1] : NULL;
    for (size_t i = 0; result == 0 && i < rc->opened; i++) {
        if (rc->links[i].state == LINK_GONE)
            continue; /* freed at the end */
        result = log_publish_segment(rc->ls, rc->links[i].segment);
        if (result == 0)
            rc->links[i].segment = NULL; /* the table's from now on */
    }
    return result;
}

static int save_identity(struct recovery *rc, bool renew)
{
    struct logstore *ls = rc->ls;
    bool lossy = ls->id.sync_failed || (ls->id.sync != STORE_SYNC_ALWAYS && !rc->clean);
    int result = 0;

    if (!rc->is_new && (renew || lossy)) {
        result = identity_renew(&ls->id, rc->seq + 1);
        if (result == 0)
            log_info("this start begins history %016" PRIx64 " at record %" PRIu64
                     ": the last run may have lost its newest writes",
                     identity_history(&ls->id), rc->seq + 1);
    }
    ls->id.sync = ls->config.sync;
    ls->id.sync_failed = false;
    ls->id.last_segment = rc->last != NULL ? rc->last->number : 0;
    /* As it is on the disk it may stay: a full disk does not hinder a start without news. */
    if (result == 0 && !identity_same(&ls->id, &rc->on_disk))
        result = identity_write(ls->dir, &ls->id);
    if (result != 0)
        log_error("cannot write %s/STORE: %s", ls->dir, strerror(-result));
    return result;
}

static int begin_log(struct recovery *rc, uint64_t tail)
{
    struct logstore *ls = rc->ls;
    struct segment *last = rc->last;
    struct segment_file *f;
    off_t size = 0;
    int result;

    atomic_store(&ls->log.next_number, rc->highest + 1);
    atomic_store(&ls->log.noted_number, ls->id.last_segment);
    ls->log.tail_seq = rc->seq;
    ls->log.next_seq = rc->seq + 1;
    atomic_store(&ls->marks.written_seq, rc->seq);
    atomic_store(&ls->marks.synced_seq, rc->seq);
    atomic_store(&ls->marks.visible_seq, rc->seq);
    if (last == NULL)
        return log_rotate(ls);
    atomic_store(&last->keep_open, true);
    result = segment_open(last, &f);
    if (result != 0)
        return result;
    result = io_file_size(f->fd, &size);
    segment_file_unref(f);
    if (result == 0)
        log_continue(ls, last, tail, (uint64_t)size);
    atomic_store(&ls->log.first_unsynced, last->number);
    return result;
}

static int start_threads(struct logstore *ls)
{
    int result = writer_start(ls);

    if (result == 0)
        result = background_start(ls);
    if (result == 0)
        result = compact_start(ls);
    if (result != 0)
        log_error("cannot start the threads of %s: %s", ls->dir, strerror(-result));
    return result;
}

static int to_serving(struct recovery *rc, size_t at, uint64_t tail, bool renew)
{
    struct logstore *ls = rc->ls;
    int result = sync_replayed(rc, at);

    keyspace_fold_flush(ls, clock_wall_ms());
    if (result == 0)
        result = remove_unfinished(rc);
    if (result == 0)
        result = publish(rc);
    if (result == 0)
        result = big_recover(ls, &rc->big_named, ls->vectors.next_big_file);
    if (result == 0)
        result = save_identity(rc, renew);
    if (result == 0)
        result = begin_log(rc, tail);
    /* What was replayed is not in the index yet: it counts towards the next checkpoint. */
    atomic_fetch_add(&ls->appended_bytes, rc->done_bytes);
    return result != 0 ? result : start_threads(ls);
}

static int run(struct recovery *rc)
{
    struct logstore *ls = rc->ls;
    bool renew = false;
    size_t at = 0;
    uint64_t offset = 0;
    uint64_t tail = 0;
    int64_t start_ms = clock_mono_ms();
    int result = load_identity(rc, &renew);

    rc->highest = ls->id.last_segment;
    if (result == 0 && rc->is_new) {
        result = identity_write(ls->dir, &ls->id);
        rc->on_disk = ls->id;
    }
    if (result == 0)
        result = chain_open(rc);
    if (result == 0)
        result = open_index(rc, rc->is_new);
    if (result == 0)
        result = find_start(rc, &at, &offset);
    if (result == 0)
        result = index_reader_open(ls->index, &ls->writer_reader);
    if (result == 0 && rc->rebuild)
        tell_rebuilding(ls);
    if (result == 0)
        result = check_lengths(rc, at, offset);
    if (result == 0)
        result = replay(rc, at, offset, &tail);
    if (result == 0)
        result = to_serving(rc, at, tail, renew);
    if (result == 0 && !rc->is_new)
        log_info("opened %s: records=%" PRIu64 " replayed_bytes=%" PRIu64 " ms=%" PRId64 "%s",
                 ls->dir, atomic_load(&ls->live_count), rc->done_bytes, clock_mono_ms() - start_ms,
                 rc->clean ? "" : " (the last run did not stop cleanly)");
    return result;
}

int recover_run(struct logstore *ls)
{
    struct recovery rc = {.ls = ls};
    int result = directory_open(ls, &rc.is_new);

    if (result == 0) {
        space_begin(ls);
        result = run(&rc);
    }
    for (size_t i = 0; i < rc.opened; i++)
        if (rc.links[i].segment != NULL)
            segment_unref(rc.links[i].segment);
    free(rc.segments);
    free(rc.links);
    big_names_free(&rc.big_named);
    return result;
}
