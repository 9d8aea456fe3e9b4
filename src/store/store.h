/*
 * store.h - the engine interface: get, guarded write, flush, scan, stat; all completions
 * asynchronous.
 *
 * Provides: struct store (an opened engine) and struct store_port (one thread's way into it).
 * Used by:  command (and through it the sessions), replication, admin. Engines: logstore; memory
 *           and rados later.
 * Threads:  every thread that uses a store has its own port. Calls on a port come from its thread;
 *           so do all completions, from store_port_run(). compute() steps run on the engine's own
 *           thread.
 *
 * Keys are 0 to RECORD_KEY_MAX bytes. Expired and flushed records are absent to every call here.
 */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/aio.h"
#include "base/buf.h"
#include "base/slice.h"
#include "store/record.h"

struct store;
struct store_port;

enum store_status {
    STORE_OK,
    STORE_NOT_FOUND,  /* no such record */
    STORE_EXISTS,     /* guard: another version is present */
    STORE_NOT_STORED, /* guard absent or present failed */
    STORE_BAD_VALUE,  /* compute() refused: the present value does not suit */
    STORE_TOO_LARGE,  /* compute() made a value over the limit */
    STORE_NO_MEMORY,  /* out of memory or over a bound: try again */
    STORE_NO_SPACE,   /* the disk is full */
    STORE_READ_ONLY,  /* an fdatasync has failed: no more writes until restart */
    STORE_DAMAGED,    /* the record's bytes are not what was written */
    STORE_IO_ERROR,
};

/* A short English text, for logs and error replies. */
const char *store_status_text(enum store_status status);

/* ---- reading ---- */

/* Values up to this many bytes are handed over in memory, larger ones as a piece of a file if that
 * is safe. */
#define STORE_INLINE_MAX (16u * 1024)

/*
 * One read. The caller fills `key` (its bytes stay until done), `head_only` and `done`; `owner` is
 * the caller's. When store_get() returns true the result is there at once and done() is not called;
 * else done() comes later.
 *
 * The result is valid until store_get_release(), which must be called exactly once for status
 * STORE_OK. rec.key and rec.attrs point into memory that lives as long. Inline results (file_fd ==
 * -1, hold == NULL) live only until the next call on the port: use them at once.
 */
struct store_get {
    struct slice key;
    bool head_only; /* the value is not wanted */
    void (*done)(struct store_get *get);
    void *owner;

    enum store_status status;
    bool expired;      /* with STORE_NOT_FOUND: there was one, expired */
    bool cold;         /* the disk was waited for */
    struct record rec; /* rec.value is set when the value is in memory */
    /* >= 0: the value is value_bytes at file_offset of this file */
    int file_fd;
    off_t file_offset;
    uint64_t value_bytes; /* length of the stored value, also with head_only */

    void *hold;              /* engine's: memory or file kept for the caller */
    struct store_port *port; /* engine's from here on */
    void *job;               /* what a read that waits for the disk needs */
};

bool store_get(struct store_port *port, struct store_get *get);

/* Gives back what a STORE_OK result holds; cheap for inline ones. May be called later than other
 * reads. */
void store_get_release(struct store_get *get);

/* Moves the hold out of the result, so that the struct may go while the bytes are still being sent.
 * Call store_hold_release() once, on any thread. NULL when nothing is held. */
void *store_get_take_hold(struct store_get *get);
void store_hold_release(void *hold);

/* Becomes true when what the hold keeps is wanted back: who sends from it is to be closed. NULL:
 * never. Valid until the hold is released. */
const _Atomic bool *store_hold_revoked(const void *hold);

/* There is no cancelling: done() always comes. Whoever loses interest marks its owner gone and
 * frees in done(). */

/* ---- writing ---- */

enum store_op {
    STORE_PUT,    /* content as given, a new base */
    STORE_DELETE, /* NOT_FOUND when absent (nothing is written then) */
    STORE_TOUCH,  /* only the expiry register; NOT_FOUND when absent */
    STORE_UPDATE, /* compute() decides from the newest state */
    STORE_FLUSH,  /* everything there is, at flush_at_ms (0: now) */
};

enum store_guard {
    STORE_ANY,
    STORE_IF_ABSENT,  /* else NOT_STORED */
    STORE_IF_PRESENT, /* else NOT_STORED */
    STORE_IF_CAS,     /* present with this cas; NOT_FOUND or EXISTS else */
};

/* What compute() wants done. */
struct store_change {
    enum {
        CHANGE_NONE,
        CHANGE_PUT,    /* the value is both pieces, one behind the other */
        CHANGE_EXTEND, /* the value is the present one between the pieces */
        CHANGE_COUNTER,
    } kind;
    uint32_t flags; /* of a put and an extension, as the next three */
    int64_t expires_ms;
    struct slice attrs;
    struct slice pieces[2];
    int64_t delta; /* CHANGE_COUNTER: added to this node's slot */
};

struct big_extend;
struct store_write;

/*
 * The pure step of STORE_UPDATE: from the newest state of the key (NULL: absent) to a change, and
 * the status the write completes with. Runs on the engine's thread, may run again for the same
 * write. It may keep a result in w->reply. The slices of `out` may point into `now`, into w->value,
 * or into w->scratch. A large value is not at hand: now->value is empty then, and
 * record_value_bytes() says how long it is.
 */
typedef enum store_status store_compute(struct store_write *w, const struct record *now,
                                        struct store_change *out);

/*
 * One write. Made by store_write_new(); the caller fills the request and hands it over with
 * store_write_submit(); done() comes later on the port's thread; then store_write_free().
 */
struct store_write {
    enum store_op op;
    enum store_guard guard;
    uint64_t guard_cas;
    uint32_t flags;
    int64_t expires_ms;        /* absolute, 0 = never */
    int64_t flush_at_ms;       /* STORE_FLUSH */
    struct slice key;          /* inside this allocation */
    struct slice attrs;        /* inside this allocation */
    char *value;               /* inside this allocation: room for value_len bytes */
    size_t value_len;          /* may be made smaller before submit */
    struct store_spool *spool; /* a big value that was spooled instead; taken over by submit */
    store_compute *compute;    /* STORE_UPDATE */
    uint64_t argument[2];      /* for compute(): delta, initial value, ... */
    char scratch[24];          /* for compute(): decimal text */

    enum store_status status;
    uint64_t cas;   /* of the record as it is now, on STORE_OK */
    uint64_t reply; /* whatever compute() left */
    bool existed;   /* STORE_PUT: replaced a record */

    void (*done)(struct store_write *w);
    void *owner;

    struct store_port *port; /* engine's from here on */
    struct store_write *next;
    uint64_t hash;     /* of the key */
    uint64_t body_sum; /* of key, attributes, value */
    /* Of the first of a chain that waits for the engine's thread: the chain before it, and of its
     * own the end and the length. */
    struct store_write *chain_next;
    struct store_write *chain_last;
    uint32_t chain_count;
    bool in_delta;
    bool appended;
    struct big_extend *extend; /* logstore's: the file of an update that is too large for the log */
};

/* Memory for a write with its key, attributes and value; the key and the attributes are copied in,
 * the value is the caller's to fill. All other fields are zero. NULL when memory is short. */
struct store_write *store_write_new(struct store_port *port, struct slice key, struct slice attrs,
                                    size_t value_len);

/* Enlarges the room for the value (a body that arrives in pieces); what is in it stays. The write
 * may move. NULL when memory is short: the old one is still there. */
struct store_write *store_write_grow(struct store_write *w, size_t value_len);

/* Queues it for the end of the turn. The order of a port's writes is kept. */
void store_write_submit(struct store_write *w);

void store_write_free(struct store_write *w);

/* ---- big values, spooled as they arrive ---- */

/* Values above this many bytes must be spooled. */
#define STORE_SPOOL_MIN (1024u * 1024)
/* Pieces in memory before store_spool_full() asks to wait. */
#define STORE_SPOOL_PIECE (256u * 1024)

struct store_spool;

/* A write that carries a spool may be overtaken by later writes of the same port, an update of a
 * big value by later writes of other keys: wait for it where order matters. */

/* Begins a file for a value of `value_bytes` (UINT64_MAX: not known yet, up to the limit).
 * on_room() is called on the port's thread when a full spool has room again. 0; -ENOMEM: so much is
 * under way that no more is begun, or no memory; -ENOSPC; -EROFS. */
int store_spool_open(struct store_port *port, struct slice key, struct slice attrs,
                     uint64_t value_bytes, void (*on_room)(void *arg), void *arg,
                     struct store_spool **out);

/* Takes a copy of the bytes and writes them in the background. 0; -ENOSPC, -EIO... as soon as an
 * earlier piece is known to have failed; -ENOMEM, also when all that is under way holds too much
 * and this is not the oldest. Abandon it then. */
int store_spool_add(struct store_spool *spool, struct slice bytes);

/* True: wait for on_room() before adding more. */
bool store_spool_full(const struct store_spool *spool);

uint64_t store_spool_bytes(const struct store_spool *spool);

/* The body did not come to its end: the file is removed. A spool that was given to a write is not
 * ours any more. */
void store_spool_abandon(struct store_spool *spool);

/* ---- a thread's port ---- */

int store_port_open(struct store *store, struct aio *aio, struct store_port **out);
/* After all its reads and writes are done. */
void store_port_close(struct store_port *port);
/* Readable when store_port_run() has completions. */
int store_port_fd(const struct store_port *port);
/* Calls done() of what has finished. */
void store_port_run(struct store_port *port);
/* Hands the writes submitted since the last call to the engine. Call at the end of each turn. */
void store_port_flush(struct store_port *port);
/* Reads and writes not yet completed. */
size_t store_port_pending(const struct store_port *port);

/* ---- listing ---- */

/* The keys from `from` (included; empty: the first) to `to` (not included) that begin with
 * `prefix`. */
struct store_range {
    struct slice prefix;
    struct slice from;
    bool has_to;
    struct slice to;
    bool has_after; /* the scan goes on behind this key: the last of the page before */
    struct slice after;
    bool reverse; /* the largest key first */
};

/* What is known of a record without reading it. The key lives only during the call. */
struct store_scan_item {
    struct slice key;
    enum record_kind kind; /* put or counter */
    struct stamp base;
    int64_t expires_ms; /* 0: never */
    uint64_t cas;
    uint64_t bytes; /* on the disk: head, key, attributes, value */
};

/* One page, in bytewise order: calls each(item, arg) for at most `limit` live records, until it
 * returns false. Returns 0: there are no more; 1: there may be; -EAGAIN before the store serves;
 * other -errno (what was given until then is right).
 *
 * A page has every write that was answered before the call. A record that is there during a whole
 * scan, each page beginning after the last key of the one before, is given exactly once. Nothing is
 * held from page to page. each() may write over the memory of range->after. May wait for the disk,
 * and for other scans when there are many: not for a network loop's thread; each() neither waits
 * long nor scans. */
int store_scan(struct store *store, const struct store_range *range, unsigned limit,
               bool (*each)(const struct store_scan_item *item, void *arg), void *arg);

/* The keys alone, with `prefix`, behind `after` (have_after false: from the start). */
int store_scan_keys(struct store *store, struct slice prefix, bool have_after, struct slice after,
                    unsigned limit, void (*each)(struct slice key, void *arg), void *arg);

/* ---- the whole ---- */

enum store_sync { STORE_SYNC_ALWAYS, STORE_SYNC_INTERVAL, STORE_SYNC_OS };

/* Two segments or 1 % of the file system, whichever is more; never more than a tenth of it. */
#define STORE_RESERVE_DEFAULT UINT64_MAX

struct store_config {
    const char *dir; /* made if missing */
    enum store_sync sync;
    int64_t sync_interval_ms;
    uint64_t segment_bytes; /* at least 4 MiB */
    uint64_t max_value_bytes;
    /* bytes of the disk that puts must leave free; 0: none; STORE_RESERVE_DEFAULT */
    uint64_t reserve_bytes;
    /* most that big values may hold of the disk before they are stored; 0: a tenth of it, at least
     * four times the largest value */
    uint64_t spool_max_bytes;
    /* most of the disk that files without a name may keep for those who still read them; 0: 1 GiB */
    uint64_t pinned_max_bytes;
    uint16_t node;         /* -sid; 0: not in a group */
    unsigned reader_ports; /* how many ports will be opened at most */
    /* Tests: a checkpoint is due when so many keys have changed; 0: as it suits the engine. */
    size_t checkpoint_entries;
    bool no_compaction;      /* tests: segments stay as they are */
    int64_t keep_history_ms; /* compaction keeps what was superseded for so long; 0: not at all */
    bool lock_index;         /* keep the index in memory, if the system allows it */
    bool cold_index;         /* tests: no lookup of the index is made by a network loop alone */
    unsigned open_segments;  /* files of the log that may stay open; 0: as it suits the engine */
    struct aio_pool *pool;   /* borrowed */
};

enum store_state {
    STORE_STARTING, /* rebuilding: nothing can be read yet */
    STORE_SERVING,
    STORE_FAILED, /* starting failed; the reason is in the log */
};

/* Locks and opens the directory, recovers, and returns when every acknowledged record can be read;
 * only a rebuild of the index that takes longer than `early_ms` lets it return before, in
 * STORE_STARTING. 0, or -errno with the reason logged in one line. */
int logstore_open(const struct store_config *config, int64_t early_ms, struct store **out);

enum store_state store_state(const struct store *store);

/* Rebuild progress in percent while STORE_STARTING. */
unsigned store_progress(const struct store *store);

/* True if writes are taken; else *reason says in a few words why not (valid until this thread asks
 * again). On a full disk deletes are taken all the same. */
bool store_writable(const struct store *store, const char **reason);

/* The time by which this store judges expiry and delayed flushes, in Unix milliseconds: the
 * wall clock, or the clock of its newest record where that is ahead (a wall clock that was set
 * back). Relative times count from here. Any thread. */
int64_t store_now_ms(const struct store *store);

/* Live records. */
uint64_t store_count(const struct store *store);

/* Syncs everything, writes the checkpoint and the clean-stop mark, frees all. Ports must be closed.
 * 0 or -errno. */
int store_close(struct store *store);

/* ---- backup ---- */

/* Begins a backup of the running store: what was written up to now is synced, and the files that hold
 * it keep their names and contents until the lease of `lease_ms` ends. *token names the lease. Lines
 * are added to `list`: "dir PATH"; "seq N", the last record of the backup; "last_segment N", for
 * STORE; then in the order of the log "closed NAME BYTES" (never changes, can be linked) and last
 * "open NAME BYTES" (to be copied, only so many bytes), names below log/. All files below big/ belong
 * to it. 0; -EAGAIN before the store serves; -EBUSY: too many at a time; -EROFS after a failed sync;
 * -errno. Waits for the disk: not for a network loop's thread. */
int store_backup_begin(struct store *store, int64_t lease_ms, uint64_t *token, struct buf *list);

/* Prolongs or ends a lease. 0; -ENOENT: it has ended. Any thread; the end may let go of files, which
 * others do then. */
int store_backup_renew(struct store *store, uint64_t token, int64_t lease_ms);
int store_backup_end(struct store *store, uint64_t token);

/* Lines "name value\n" of the engine's own figures, for `stats` and metrics. Any thread. 0 or
 * -ENOMEM. */
int store_stat(struct store *store, struct buf *out);

/* Asks for a checkpoint, and then for a compaction of all that is worth it, at full speed. Returns
 * at once; "compaction_asked" among the figures is 1 until nothing is left to be done. Any thread,
 * when the store serves. */
void store_compact(struct store *store);

#endif
