/*
 * identity.h - who a store is: the STORE file, its chain of histories, and the replication vectors.
 *
 * Provides: struct identity (the STORE file), struct vectors (per writer, what this log holds or
 *           beats).
 * Used by:  recovery (reads, renews), writer and checkpoint (vectors).
 * Threads:  identity: recovery only, read-only later. vectors: the writer's thread; snapshots are
 *           encoded copies.
 *
 * STORE is a text file, replaced atomically; docs/format.md shows it. A new epoch and a new history
 * begin whenever this store may have lost a tail that others have seen (docs/architecture.md,
 * "Histories").
 */
#ifndef LOGSTORE_IDENTITY_H
#define LOGSTORE_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "store/store.h"

#define IDENTITY_HISTORIES 32

struct history {
    uint64_t id;        /* random */
    uint64_t first_seq; /* of the first record written in it */
};

struct identity {
    unsigned char uuid[16];
    uint16_t node;
    uint32_t epoch; /* of the present writer */
    uint32_t
        last_segment;     /* every segment up to this number was begun: its header is on the disk */
    enum store_sync sync; /* of the last run */
    bool sync_failed;     /* the last run ended with a failed fdatasync */
    uint64_t device;      /* of the file `lock`: another one means that the directory was copied */
    uint64_t inode;
    char machine[33]; /* /etc/machine-id, or empty */
    /* A repair has dropped records before this seq: neither they nor the headers before it say what
     * is held. 0: all do. */
    uint64_t held_from;
    unsigned history_count;
    struct history histories[IDENTITY_HISTORIES]; /* newest last */
};

/* Reads DIR/STORE. 0; -ENOENT; -EUCLEAN when it is not one of ours or damaged; -errno. Nothing is
 * logged. */
int identity_read(const char *dir, struct identity *out);

/* Replaces DIR/STORE durably. 0 or -errno. */
int identity_write(const char *dir, const struct identity *id);

/* True if both would be written alike. */
bool identity_same(const struct identity *a, const struct identity *b);

/* Random bytes, and a new store's identity (history from seq 1). 0 or -errno. */
int identity_random(void *out, size_t len);
int identity_new(uint16_t node, struct identity *out);

/* A new writer in a new history from first_seq on. 0 or -errno. */
int identity_renew(struct identity *id, uint64_t first_seq);

/* Fills device, inode and machine from the open lock file. */
void identity_of_place(int lock_fd, struct identity *out);

/* What the checksums of this store's record heads depend on. */
uint64_t identity_salt(const struct identity *id);

static inline uint64_t identity_history(const struct identity *id)
{
    return id->histories[id->history_count - 1].id;
}

/* ---- vectors ---- */

struct writer_clock {
    uint16_t node;
    uint32_t epoch;
    uint64_t version;
};

#define VECTORS_MAX 1024

struct vectors {
    unsigned count;
    struct writer_clock held[VECTORS_MAX]; /* everything up to there is held here or beaten here */
    /* Up to there deleted and expired records may be missing here (replication's "removed"). */
    unsigned removed_count;
    struct writer_clock removed[VECTORS_MAX];
    /* the next file of a big value gets this number or a higher one */
    uint64_t next_big_file;
};

/* Raises the entry of the stamp's writer; adds it if it is new (the table is large enough for any
 * group). */
void vectors_raise(struct vectors *v, struct stamp s);

/* The same for the removed vector: a deleted or expired record with this log clock was let go. */
void vectors_raise_removed(struct vectors *v, struct stamp logged);

/* Raises v to whatever is higher in `other`. */
void vectors_merge(struct vectors *v, const struct vectors *other);

/* The encoded form for segment headers and checkpoints (docs/format.md, "Vectors"). 0 or
 * -ENOMEM. */
int vectors_encode(const struct vectors *v, struct buf *out);

/* False: malformed. An empty slice gives empty vectors. */
bool vectors_decode(struct slice bytes, struct vectors *out);

#endif
