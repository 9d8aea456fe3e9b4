/*
 * logstore.h - the insides of the default engine: one append-only log that is at once data, update
 * log and backup.
 *
 * Used by:  the files of this folder only.
 *
 * Threads and who owns what (docs/architecture.md has the picture):
 *   ports      network workers and others; read lock-free between grace_enter() and grace_leave().
 *   writer     the one thread that checks guards, appends, publishes; owns struct log, vectors,
 *   clock, counts. background checkpoints, interval syncs, zeros ahead of the tail.
 *   recovery   before all others; owns everything until it sets `state`.
 * Locks, taken in this order: index_mutex, call_mutex, checkpoint.mutex, log.sync_mutex, log.fill_mutex, big.mutex,
 * grace.mutex.
 */
#ifndef LOGSTORE_H
#define LOGSTORE_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "store/engine.h"
#include "store/logstore/backup.h"
#include "store/logstore/big.h"
#include "store/logstore/compact.h"
#include "store/logstore/delta.h"
#include "store/logstore/entry.h"
#include "store/logstore/grace.h"
#include "store/logstore/identity.h"
#include "store/logstore/index.h"
#include "store/logstore/index_cold.h"
#include "store/logstore/listing.h"
#include "store/logstore/segment.h"
#include "store/logstore/segment_cache.h"
#include "store/logstore/space.h"
#include "store/logstore/sweep.h"

/* A batch buffer takes small records whole and the heads of large ones; larger values are written
 * from where they are. */
#define BATCH_BYTES (4u * 1024 * 1024)
#define BATCH_COPY_MAX (16u * 1024)
#define BATCH_PIECES 512
/* Room that one record needs in the buffer at most: head, key, attributes, a small value. */
#define BATCH_RECORD_MAX (RECORD_HEAD_MAX + RECORD_KEY_MAX + RECORD_ATTRS_MAX + BATCH_COPY_MAX)

#define ZERO_STEP (16u * 1024 * 1024)

#define CHECKPOINT_ENTRIES (1000u * 1000)
#define CHECKPOINT_DELTA_BYTES (256u * 1024 * 1024)
#define CHECKPOINT_LOG_BYTES (256u * 1024 * 1024)

/* A stretch of memory that goes into the log at the batch's next free place. */
struct batch_piece {
    uint64_t offset; /* in the segment */
    const char *data;
    size_t len;
    void *owned; /* freed after the batch, or NULL */
};

/* The tail of the log. Writer only, but for the fields that say otherwise. */
struct log {
    struct segment *active;
    uint64_t tail;       /* first byte after the last record that is on the file */
    uint64_t batch_tail; /* the same with the batch that is being gathered */
    uint64_t next_seq;
    uint64_t tail_seq; /* last record that is on the file */
    char *buffer;      /* BATCH_BYTES */
    size_t buffer_used;
    struct batch_piece pieces[BATCH_PIECES];
    unsigned piece_count;
    int complaint; /* the last failure that was logged, and when (monotonic) */
    int64_t complained_ms;
    _Atomic uint32_t first_unsynced; /* segments below this number are on the disk */
    pthread_mutex_t sync_mutex;      /* one log_sync() at a time; before fill_mutex */
    /* finding a segment outside grace, against its retirement; taken last */
    pthread_mutex_t table_mutex;
    pthread_mutex_t fill_mutex; /* zero_end, and who may write beyond it */
    /* the active segment holds written zeros (or records) up to there */
    _Atomic uint64_t zero_end;
    _Atomic uint64_t active_number;
    /* background: appended bytes and syncs at the last look, and what they said */
    uint64_t fill_bytes;
    uint64_t fill_syncs;
    bool large_syncs;
    _Atomic uint32_t next_number;  /* for the next new file */
    _Atomic uint32_t noted_number; /* the segment that STORE names */
    uint32_t spare_number;         /* of a rotation that failed; 0: none */
};

/* Where the log stands, for others than the writer. Published after every batch. */
struct log_marks {
    _Atomic uint64_t written_seq; /* last record on the file */
    _Atomic uint64_t synced_seq;  /* last record known to be on the disk */
    _Atomic uint64_t visible_seq; /* last record that readers may see */
};

struct checkpoint {
    pthread_mutex_t mutex;
    pthread_cond_t wanted; /* its thread: something to do */
    pthread_cond_t done;   /* writer: a checkpoint has ended */
    bool stop;
    _Atomic bool freeze_wanted; /* the writer is asked to start a new generation */
    bool frozen;                /* the writer has done so */
    struct index_meta meta;     /* as of the freeze */
    struct buf meta_vectors;
    bool drop_first;                  /* a flush has come since the last checkpoint */
    bool failed_last;                 /* the last attempt failed (full disk): said once */
    _Atomic uint64_t start_bytes;     /* log bytes appended before the present generation began */
    uint64_t frozen_superseded;       /* superseded_bytes at the freeze ... */
    _Atomic uint64_t done_superseded; /* ... of the last one that was written */
    _Atomic bool asked;               /* somebody wants one now */
    _Atomic int64_t took_ms;          /* the last one that was written */
    _Atomic uint64_t count;           /* checkpoints written in this run */
    pthread_t thread;
    bool runs;
};

struct logstore {
    struct store base;
    struct store_config config;
    char *dir;
    int lock_fd;
    pthread_mutex_t store_mutex; /* over the writing of STORE; nothing is taken under it */
    int log_dir_fd;              /* the folder log/, for syncing names without a new descriptor */
    struct identity id;
    uint64_t salt;             /* of the heads of this store's records, from its uuid */
    _Atomic int state;         /* enum store_state */
    _Atomic unsigned progress; /* percent of a rebuild */
    _Atomic bool read_only;    /* an fdatasync has failed */
    /* what has made it read-only, for clients; NULL: nothing, or about to be set */
    _Atomic(const char *) failure;
    char failure_text[128];

    struct index *index;
    struct index_cold index_cold;
    _Atomic(struct delta *) active;
    _Atomic(struct delta *) frozen;
    _Atomic(struct segment_table *) segments;
    struct segment_cache segment_cache;
    struct grace grace;
    struct log_marks marks;
    _Atomic uint64_t appended_bytes; /* since the start, for checkpoint triggers and stats */
    /* of records that others have superseded, since the start; tells compaction of debt that the
     * index does not show yet */
    _Atomic uint64_t superseded_bytes;
    _Atomic uint64_t live_count;
    struct space space;
    /* A compaction that was half installed when the last run ended: rows name the segment `number`
     * and the old ones, and all of them can be read. Set by recovery; compaction goes on with it
     * before anything else, and frees `old`. */
    struct {
        uint32_t number;
        uint32_t *old;
        size_t count;
    } installing;
    _Atomic unsigned port_count;

    /* Flush, as readers need it: everything with base <= flush is dead. Written by the writer (and
     * recovery) under flush_lock's sequence. */
    _Atomic uint32_t flush_sequence;
    _Atomic uint64_t flush_version;
    _Atomic uint64_t flush_writer;    /* node << 32 | epoch */
    _Atomic uint64_t pending_version; /* stamp of a delayed flush; 0: none */
    _Atomic uint64_t pending_writer;
    _Atomic int64_t pending_ms;
    _Atomic bool flush_behind; /* flush_counted is below it: the sweep has to look */

    /* Writer's own. */
    struct log log;
    struct vectors vectors;
    /* last tick of the hybrid clock; readers look at its milliseconds */
    _Atomic uint64_t clock;
    struct index_reader *writer_reader;
    struct grace_reader writer_grace;
    bool flushed_since_checkpoint;
    /* Records up to there are not in live_count: the flush in force, or one before it while the
     * sweep looks for what a flush has killed among younger records. */
    struct stamp flush_counted;
    struct stamp highest_base; /* of all records; or higher */
    /* No record outside the index expires before that; INT64_MAX: none does. The sweep raises it. */
    _Atomic int64_t first_expiry_ms;
    struct sweep *sweep;
    _Atomic(struct store_write *) inbox; /* the newest chain, by chain_next the ones before */
    _Atomic uint32_t inbox_count;        /* writes in all of them */
    _Atomic uint32_t wake_at; /* the writer sleeps until so many wait; 0: it does not sleep */
    sem_t inbox_wake;
    pthread_mutex_t call_mutex;         /* one writer_call() at a time */
    _Atomic(struct writer_call *) call; /* to be run between two batches */
    _Atomic bool writer_stop;
    pthread_t writer;
    bool writer_runs;
    struct writer_state *writer_state; /* writer.c */

    struct checkpoint checkpoint;
    /* From before a freeze until its generation is settled, and while a compaction moves rows: one
     * of them at a time. Taken before all others. */
    pthread_mutex_t index_mutex;
    pthread_t background;
    bool background_runs;
    pthread_mutex_t background_mutex; /* of the next two; for moments */
    pthread_cond_t background_wanted;
    bool background_stop;
    pthread_t warm; /* reads the index into memory after a start */
    bool warm_runs;
    _Atomic bool warm_stop;

    /* Recovery's thread, when it outlives logstore_open(). */
    pthread_t recovery;
    bool recovery_runs;
    _Atomic bool start_cancelled; /* closed before it was ready: the rebuild ends */
    pthread_mutex_t start_mutex;
    pthread_cond_t start_changed;
    bool start_ended;
    bool start_rebuilding;
    int start_rc;

    struct big big;
    struct pins pins;

    struct listing *listing; /* listing.c: scans */
    struct compaction *compaction;
    struct backups backups;

    /* Figures for stats. */
    _Atomic uint64_t syncs;
    _Atomic uint64_t sync_us;
    _Atomic uint64_t batches;
    _Atomic uint64_t batch_writes;
    _Atomic uint64_t damaged_reads;
};

/* A thread's way in. */
struct logstore_port {
    struct store_port base;
    struct grace_reader grace;
    struct index_reader *reader; /* opened at the first use: the index may not be there before */
    char *scratch;               /* PORT_SCRATCH bytes: inline results live here */
};

#define PORT_SCRATCH (160u * 1024)

static inline struct logstore *logstore_of(struct store *store)
{
    return (struct logstore *)store;
}

/* ---- keyspace.c: what a record does to the state ---- */

/* Newest entry of the key whose record readers may see; for the writer with visible = UINT64_MAX.
 * 0, -ENOENT, -errno. Between grace_enter() and grace_leave(). */
int keyspace_find(struct logstore *ls, struct index_reader *reader, uint64_t hash, struct slice key,
                  uint64_t visible, struct entry *out);

/* The same, but only among what is not in the index yet: never waits for the disk. */
bool keyspace_find_new(struct logstore *ls, uint64_t hash, struct slice key, uint64_t visible,
                       struct entry *out);

/* True: a record with this base is dead by flush_all at wall time now_ms. */
bool keyspace_is_flushed(const struct logstore *ls, struct stamp base, int64_t now_ms);

/* True: the entry is a record that clients see. *expired (may be NULL) is set if only its expiry
 * hides it. */
bool keyspace_is_live(const struct logstore *ls, const struct entry *e, int64_t now_ms,
                      bool *expired);

/* Where a record was put. */
struct place {
    uint32_t segment;
    uint32_t offset;
    uint32_t length;
};

/* The key's entry after `r` at `at`; prev NULL: absent. False: the record changes nothing (a touch
 * without its base). */
bool keyspace_entry_after(const struct entry *prev, const struct record *r, struct place at,
                          struct entry *out);

/* Applies a record that is (or is about to be) in the log: delta, live count, clock, vectors,
 * flush. `prev` as found before, or NULL. 0 or -ENOMEM. */
int keyspace_apply(struct logstore *ls, const struct record *r, struct place at, uint64_t hash,
                   const struct entry *prev);

/* Folds a delayed flush whose moment has come into the flush in force. Writer and recovery. */
void keyspace_fold_flush(struct logstore *ls, int64_t now_ms);

/* Recovery: the state as of the index's position. */
void keyspace_begin(struct logstore *ls, const struct index_meta *meta);

/* Recovery: all that a flush has killed up to this one is out of live_count. Writer: the sweep has
 * seen to that. */
void keyspace_flush_is_counted(struct logstore *ls, struct stamp flush);

/* Writer, between two batches: if the newest state of the key has expired, or a flush has killed it
 * and it is counted still, it becomes a tombstone at the same place, and is not counted any more.
 * Nothing is written to the log: a replay brings the record back as what it is, and the sweep comes
 * again. 1; 0: there is nothing to sweep; -errno. */
int keyspace_sweep(struct logstore *ls, uint64_t hash, struct slice key, int64_t now_ms);

/* The same place in the turn: puts the key's state of the index into the delta as it is, unless there
 * is a newer one, so that the next checkpoint writes its row anew. 0 or -errno. */
int keyspace_refresh(struct logstore *ls, uint64_t hash, struct slice key);

struct stamp keyspace_flush(const struct logstore *ls);
struct stamp keyspace_flush_pending(const struct logstore *ls, int64_t *at_ms);
void keyspace_set_flush(struct logstore *ls, struct stamp flush, struct stamp pending,
                        int64_t pending_ms);

/* Recovery: takes the registers of a segment's header, in front of its records. */
void keyspace_merge_flush(struct logstore *ls, struct stamp flush, struct stamp pending,
                          int64_t pending_ms);

/* The time by which expiry and flushes are judged: the wall clock, or the hybrid clock where that
 * is ahead, so that nothing older than an expiry can be written after it. */
int64_t keyspace_now_ms(const struct logstore *ls);

/* A new stamp of this writer; the hybrid clock ticks. Writer only. */
struct stamp keyspace_stamp(struct logstore *ls);

/* ---- log.c: the tail of the log ---- */

/* Gathers a record into the batch; r->seq, r->unsynced are set. The value may lie anywhere until
 * log_write(); `owned` is freed then, or at once if the value was copied. False: the batch is full:
 * log_write() first (owned is untouched). */
bool log_add(struct logstore *ls, struct record *r, uint64_t body_sum, void *owned,
             struct place *at);

/* Takes the newest record out of the batch again, as log_add() has put it at `at`. */
void log_take_out(struct logstore *ls, struct place at);

/* The record at `at`, which is in the batch and not on the file yet. False: it is on the file. */
bool log_find_in_batch(struct logstore *ls, struct place at, struct record *out);

/* True if a record of `body_len` body bytes fits into the active segment behind the batch. */
bool log_fits(const struct logstore *ls, uint64_t body_len);

/* Writes the batch to the file. 0; -errno: nothing of it is in the log (what was written of it is
 * erased). */
int log_write(struct logstore *ls);

/* fdatasync of everything written and not yet known to be on the disk (segments in order, the
 * directory after a rotation); moves synced_seq. Any thread, one at a time under sync_mutex. A
 * failure makes the store read-only. */
int log_sync(struct logstore *ls);

/* Forgets what was gathered and not written. */
void log_drop_batch(struct logstore *ls);

/* Closes the active segment and begins the next. The batch must be empty. 0 or -errno (the old one
 * stays active). */
int log_rotate(struct logstore *ls);

/* Continues in an existing segment at `tail` (recovery); takes over the reference. */
void log_continue(struct logstore *ls, struct segment *s, uint64_t tail, uint64_t zero_end);

int log_init(struct logstore *ls);
void log_fini(struct logstore *ls);

/* Background: writes the next megabyte of zeros if the tail comes near the end of them. True if it
 * did something. */
bool log_fill_ahead(struct logstore *ls);

/* Path of a segment file; malloc'd, NULL when memory is short. */
char *log_segment_path(const struct logstore *ls, uint32_t number);

/* ---- segments.c: the segments of the log ---- */

/* A number for a new segment file: higher than all before it, never used again. Any thread. */
static inline uint32_t log_new_number(struct logstore *ls)
{
    return atomic_fetch_add(&ls->log.next_number, 1);
}

/* Publishes a segment to readers; takes over the reference. One thread at a time, not inside grace.
 * 0 or -ENOMEM. */
int log_publish_segment(struct logstore *ls, struct segment *s);

/* A reference to a segment, for threads that are not inside grace. NULL: there is none of this
 * number. */
struct segment *log_hold_segment(struct logstore *ls, uint32_t number);

/* All segments in the order of the log (the active one is the last), each with a reference. 0 or
 * -ENOMEM. While a compaction is being installed its new segment is there beside those that it
 * replaces. */
int log_list_segments(struct logstore *ls, struct segment ***list, size_t *count);
void log_release_segments(struct segment **list, size_t count);

/* The order of the log: < 0, 0, > 0. */
int log_compare_segments(const struct segment *a, const struct segment *b);

/* Takes segments away that no row of the index and no entry of the delta names any more: out of the
 * table when no reader can come upon them, their files removed; who still reads one keeps it. Not on
 * the writer's thread, not inside grace. 0, or -errno: nothing has happened. */
int log_retire_segments(struct logstore *ls, const uint32_t *numbers, size_t count);

/* At the end: nobody reads any more. */
void log_free_segments(struct logstore *ls);

/* ---- writer.c ---- */

int writer_start(struct logstore *ls);
/* Ends the thread after everything in the inbox. */
void writer_end(struct logstore *ls);
/* After writer_end(): the last record of a clean stop, synced. What stands before it is whole. 0 or
 * -errno. */
int writer_mark_clean(struct logstore *ls);
/* First byte of a marker's value. */
#define MARKER_CLEAN 1
/* Hands over a chain of `count` writes in order; any thread. */
void writer_hand_over(struct logstore *ls, struct store_write *first, struct store_write *last,
                      uint32_t count);
void writer_wake(struct logstore *ls);
/* The writer's reading of an old value, also of one that is only in the batch. *owned is to be
 * freed (may be NULL). */
int writer_read_record(struct logstore *ls, const struct entry *e, struct record *out,
                       void **owned);
/* Runs run(ls, arg) on the writer's thread between two batches, when all that was decided is also
 * visible, and returns after it. Short: writes wait meanwhile. Any thread but the writer's and
 * those that it waits for; one call at a time. */
void writer_call(struct logstore *ls, void (*run)(struct logstore *ls, void *arg), void *arg);
/* What 0 or a negative errno means to the client. */
enum store_status writer_status_of(int rc);
/* Becomes read-only: writes are refused from now on. Said once: cannot `what` the file at `path`. */
void writer_fail(struct logstore *ls, int error, const char *what, const char *path);

/* ---- background.c: interval syncs, zeros ahead; starts and ends checkpoints and the sweep ---- */

int background_start(struct logstore *ls);
void background_end(struct logstore *ls);
void background_wake(struct logstore *ls);

/* ---- checkpoint.c ---- */

int checkpoint_start(struct logstore *ls);
/* No further one begins, and the writer does not wait for one any more. */
void checkpoint_end(struct logstore *ls);
/* One is wanted soon, whatever is due. Any thread. */
void checkpoint_ask(struct logstore *ls);
/* Writer: the freeze that is wanted. At a batch boundary. */
void checkpoint_freeze(struct logstore *ls);
/* Writer: waits a little while the checkpoint is too far behind. */
void checkpoint_slow_down(struct logstore *ls);
/* Lines "name value\n". 0 or -ENOMEM. */
int checkpoint_stat(struct logstore *ls, struct buf *out);
/* One checkpoint from a frozen generation (also used by recovery and at the end). 0 or -errno. */
int checkpoint_write(struct logstore *ls, struct delta *frozen, const struct index_meta *meta,
                     bool drop_first);
/* Fills meta from the writer's state; the vectors go into `room`. 0 or -ENOMEM. */
int checkpoint_meta(struct logstore *ls, struct index_meta *meta, struct buf *room);

/* ---- reader.c ---- */

bool reader_get(struct store_port *port, struct store_get *get);
/* Reads and checks a whole record by file; a value in a file of its own stays there. 0, -EUCLEAN
 * when it is damaged, -errno, logged; *owned is to be freed. */
int reader_load_record(struct logstore *ls, const struct entry *e, struct record *out,
                       void **owned);

/* ---- recover.c ---- */

/* Everything between the lock and serving. On its own thread. */
int recover_run(struct logstore *ls);

/* ---- directory.c: the lock, the folders, foreign files ---- */

/* Makes what is missing, refuses what is not ours, takes the lock. *is_new: there was no store. 0
 * or -errno, logged. */
int directory_open(struct logstore *ls, bool *is_new);
void directory_close(struct logstore *ls);
/* Writes STORE as things stand: the newest segment, a failed sync. Once the start is over; any
 * thread. 0 or -errno. */
int directory_note(struct logstore *ls);
/* Numbers of the segment files, ascending; malloc'd. 0 or -errno. */
int directory_segments(struct logstore *ls, uint32_t **numbers, size_t *count);
/* Path DIR/NAME; malloc'd, NULL when memory is short. */
char *directory_path(const struct logstore *ls, const char *name);

#endif
