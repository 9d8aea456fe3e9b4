/*
 * index_cold.c - is the index in memory? See index_cold.h.
 */
#include "store/logstore/index_cold.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/aio.h"
#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "store/logstore/index.h"

#define PAGE_BYTES 4096u
#define LOOK_MS 1000
#define SAMPLES 256u
/* Of the samples, missing ones that are nothing to speak of. */
#define FEW_MISSING 2u
/* So many reads with at most one in a thousand that waited: what is missing is not looked up. */
#define JUDGED_READS 1000u
#define REST_MS 10000
/* Address space for the mapping that is locked: more than any index has. */
#define LOCK_MAP_BYTES ((size_t)1 << 40)

void index_cold_init(struct index_cold *c, bool forced, bool wants_lock)
{
    pthread_mutex_init(&c->mutex, NULL);
    pthread_cond_init(&c->returned, NULL);
    c->fd = -1;
    c->forced = forced;
    c->wants_lock = wants_lock;
    c->random = (uint64_t)clock_mono_us() | 1;
    atomic_store(&c->cold, true); /* until it was looked at */
}

void index_cold_begin(struct index_cold *c, struct index *index, const char *path)
{
    c->fd = io_open(path, O_RDONLY, 0);
    c->looked_ms = clock_mono_ms() - LOOK_MS;
    index_cold_look(c, index);
}

void index_cold_fini(struct index_cold *c)
{
    for (unsigned i = 0; i < c->spare_count; i++)
        index_reader_close(c->spare[i]);
    if (c->map != NULL)
        munmap(c->map, LOCK_MAP_BYTES);
    if (c->fd >= 0)
        close(c->fd);
    pthread_cond_destroy(&c->returned);
    pthread_mutex_destroy(&c->mutex);
}

/* ---- reading for the loops ---- */

/* NULL: none can be had. */
static struct index_reader *take_reader(struct index_cold *c, struct index *index)
{
    struct index_reader *reader = NULL;
    bool make;

    pthread_mutex_lock(&c->mutex);
    while (c->spare_count == 0 && c->reader_count == INDEX_COLD_READERS)
        pthread_cond_wait(&c->returned, &c->mutex);
    make = c->spare_count == 0;
    if (make)
        c->reader_count++;
    else
        reader = c->spare[--c->spare_count];
    pthread_mutex_unlock(&c->mutex);
    if (make && index_reader_open(index, &reader) != 0) {
        pthread_mutex_lock(&c->mutex);
        c->reader_count--;
        pthread_mutex_unlock(&c->mutex);
        return NULL;
    }
    return reader;
}

static void give_back(struct index_cold *c, struct index_reader *reader)
{
    pthread_mutex_lock(&c->mutex);
    c->spare[c->spare_count++] = reader;
    pthread_cond_signal(&c->returned);
    pthread_mutex_unlock(&c->mutex);
}

static long major_faults(void)
{
    struct rusage usage;

    return getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_majflt : 0;
}

void index_cold_read(struct index_cold *c, struct index *index, struct slice key)
{
    struct index_reader *reader = take_reader(c, index);
    long before = major_faults();
    struct entry e;

    if (reader == NULL)
        return; /* the loop finds out why */
    (void)index_find(reader, key, &e);
    give_back(c, reader);
    atomic_fetch_add_explicit(&c->reads, 1, memory_order_relaxed);
    if (major_faults() != before)
        atomic_fetch_add_explicit(&c->faults, 1, memory_order_relaxed);
}

/* ---- looking ---- */

static uint64_t next_random(struct index_cold *c)
{
    c->random ^= c->random << 13;
    c->random ^= c->random >> 7;
    c->random ^= c->random << 17;
    return c->random;
}

/* A page that the index has given back is not missed. */
static bool is_missing(const struct index_cold *c, off_t offset)
{
    return !aio_is_cached(c->fd, offset, PAGE_BYTES) && !io_is_hole(c->fd, offset, PAGE_BYTES);
}

/* Pages of the sample that are not in memory. */
static unsigned count_missing(struct index_cold *c, uint64_t bytes)
{
    uint64_t pages = bytes / PAGE_BYTES;
    unsigned samples = pages < SAMPLES ? (unsigned)pages : SAMPLES;
    unsigned missing = 0;

    for (unsigned i = 0; i < samples; i++) {
        uint64_t page = pages <= SAMPLES ? i : next_random(c) % pages;

        missing += is_missing(c, (off_t)(page * PAGE_BYTES));
    }
    atomic_store_explicit(&c->resident_percent, samples == 0 ? 100 : 100 - missing * 100 / samples,
                          memory_order_relaxed);
    return missing;
}

/* Have those that were left to the pool found nearly everything in memory? */
static bool was_in_vain(struct index_cold *c)
{
    uint64_t reads = atomic_load(&c->reads) - c->judged_reads;
    uint64_t faults = atomic_load(&c->faults) - c->judged_faults;

    if (reads < JUDGED_READS)
        return false;
    c->judged_reads += reads;
    c->judged_faults += faults;
    return faults * 1000 <= reads;
}

static void refuse_lock(struct index_cold *c, int error)
{
    c->lock_refused = true;
    log_warn("the index cannot be kept in memory: %s; raise the limit of locked memory "
             "(LimitMEMLOCK, ulimit -l)",
             strerror(error));
}

/* The pages are the page cache's, whichever mapping locks them. */
static void lock_more(struct index_cold *c, uint64_t bytes)
{
    uint64_t locked = atomic_load(&c->locked_bytes);
    uint64_t end = bytes / PAGE_BYTES * PAGE_BYTES;

    if (!c->wants_lock || c->lock_refused || c->fd < 0 || !atomic_load(&c->may_lock) ||
        end <= locked)
        return;
    if (c->map == NULL) {
        void *map = mmap(NULL, LOCK_MAP_BYTES, PROT_READ, MAP_SHARED | MAP_NORESERVE, c->fd, 0);

        if (map == MAP_FAILED) {
            refuse_lock(c, errno);
            return;
        }
        c->map = map;
    }
    if (mlock(c->map + locked, end - locked) != 0)
        refuse_lock(c, errno);
    else
        atomic_store(&c->locked_bytes, end);
}

void index_cold_warmed(struct index_cold *c)
{
    atomic_store(&c->may_lock, true);
}

void index_cold_look(struct index_cold *c, struct index *index)
{
    int64_t now = clock_mono_ms();
    uint64_t rows;
    uint64_t bytes;
    bool cold;

    if (now - c->looked_ms < LOOK_MS || c->fd < 0 || index_figures(index, &rows, &bytes) != 0)
        return;
    c->looked_ms = now;
    lock_more(c, bytes);
    cold = count_missing(c, bytes) > FEW_MISSING;
    if (cold && was_in_vain(c))
        c->rest_until_ms = now + REST_MS;
    atomic_store(&c->cold, c->forced || (cold && now >= c->rest_until_ms));
}

int index_cold_stat(const struct index_cold *c, struct buf *out)
{
    return buf_printf(out,
                      "index_resident_percent %u\nindex_cold %d\nindex_cold_reads %" PRIu64
                      "\nindex_cold_waits %" PRIu64 "\nindex_locked_bytes %" PRIu64 "\n",
                      atomic_load(&c->resident_percent), index_cold_is(c), atomic_load(&c->reads),
                      atomic_load(&c->faults), atomic_load(&c->locked_bytes));
}
