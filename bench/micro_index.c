/*
 * micro_index.c - what the delta and the index cost, without a server around them.
 *
 * Prints nanoseconds a call, bytes an entry, and what checkpoints cost. One thread, keys in random
 * order. The index is made in DIR (its files there are replaced) and stays there.
 *
 * Run:  ninja -C build bench/micro_index && build/bench/micro_index DIR [ENTRIES [ROWS]]
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/num.h"
#include "store/logstore/delta.h"
#include "store/logstore/index.h"

static uint64_t thread_cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* A number for i < 2^32 that no other i has, in an order that looks random. */
static uint32_t scatter(uint32_t i)
{
    i ^= i >> 16;
    i *= 0x7feb352du;
    i ^= i >> 15;
    i *= 0x846ca68bu;
    return i ^ i >> 16;
}

static struct slice key_of(uint32_t i, char out[16])
{
    return slice_of(out, (size_t)snprintf(out, 16, "k%010" PRIu32, scatter(i)));
}

static struct entry entry_of(uint32_t i)
{
    return (struct entry){.segment = i >> 16,
                          .offset = i << 8,
                          .length = 1100,
                          .kind = RECORD_PUT,
                          .base = {.version = i, .epoch = 1, .node = 1},
                          .cas = i};
}

static void fail(const char *what)
{
    fprintf(stderr, "micro_index: %s failed\n", what);
    exit(1);
}

static struct delta *fill(uint32_t first, uint32_t count, size_t expected)
{
    struct delta *d = delta_new(expected);

    if (d == NULL)
        fail("delta_new");
    for (uint32_t i = first; i < first + count; i++) {
        char text[16];
        struct slice key = key_of(i, text);
        struct entry e = entry_of(i);

        if (delta_put(d, hash_slice(key), key, &e, i + 1) != 0)
            fail("delta_put");
    }
    return d;
}

static void report(const char *what, uint64_t ns, uint32_t calls)
{
    printf("%-36s %8.0f ns\n", what, (double)ns / calls);
}

/* What the loops below cost without what they measure. */
static uint64_t loop_ns(uint32_t count)
{
    uint64_t sum = 0;
    uint64_t start = thread_cpu_ns();

    for (uint32_t i = 0; i < count; i++) {
        char text[16];

        sum += hash_slice(key_of(i, text));
    }
    start = thread_cpu_ns() - start;
    if (sum == 1)
        puts("");
    return start;
}

static void find_all(const char *what, const struct delta *d, uint32_t first, uint32_t count,
                     bool expected, uint64_t base_ns)
{
    uint64_t start = thread_cpu_ns();

    for (uint32_t i = 0; i < count; i++) {
        char text[16];
        uint32_t at = first + scatter(i) % count;
        struct slice key = key_of(at, text);
        struct entry e;

        if (delta_find(d, hash_slice(key), key, UINT64_MAX, &e, NULL) != expected)
            fail(what);
    }
    report(what, thread_cpu_ns() - start - base_ns, count);
}

static void measure_delta(uint32_t entries)
{
    uint64_t base_ns = loop_ns(entries);
    uint64_t start = thread_cpu_ns();
    struct delta *d = fill(0, entries, 0);
    struct delta_item *items;
    size_t count;

    printf("delta, %" PRIu32 " entries\n", entries);
    report("put, growing", thread_cpu_ns() - start - base_ns, entries);
    printf("%-36s %8.0f\n", "bytes an entry, grown", (double)delta_bytes(d) / entries);
    find_all("hit", d, 0, entries, true, base_ns);
    find_all("miss", d, entries, entries, false, base_ns);
    start = thread_cpu_ns();
    if (delta_sorted(d, &items, &count) != 0)
        fail("delta_sorted");
    report("sort, an entry", thread_cpu_ns() - start, entries);
    free(items);
    delta_free(d);
    start = thread_cpu_ns();
    d = fill(0, entries, entries);
    report("put, presized", thread_cpu_ns() - start - base_ns, entries);
    printf("%-36s %8.0f\n", "bytes an entry, presized", (double)delta_bytes(d) / entries);
    delta_free(d);
}

static void checkpoint(struct index *index, uint32_t first, uint32_t count)
{
    struct delta *d = fill(first, count, count);
    struct delta_item *items;
    size_t sorted;
    int64_t wall = clock_mono_us();
    uint64_t start;
    uint64_t rows;
    uint64_t bytes;

    if (delta_sorted(d, &items, &sorted) != 0)
        fail("delta_sorted");
    start = thread_cpu_ns();
    if (index_apply(index, items, sorted, NULL, false) != 0 ||
        index_figures(index, &rows, &bytes) != 0)
        fail("index_apply");
    printf("%9" PRIu32 " rows: %6.2f s, %5.2f us CPU a row; then %" PRIu64
           " rows, %.0f bytes a row\n",
           count, (double)(clock_mono_us() - wall) / 1e6,
           (double)(thread_cpu_ns() - start) / 1e3 / count, rows, (double)bytes / (double)rows);
    free(items);
    delta_free(d);
}

static void look_up(struct index *index, uint32_t rows, uint64_t base_ns)
{
    const uint32_t calls = 1000000;
    struct index_reader *reader;

    if (index_reader_open(index, &reader) != 0)
        fail("index_reader_open");
    for (unsigned miss = 0; miss < 2; miss++) {
        uint64_t start = thread_cpu_ns();

        for (uint32_t i = 0; i < calls; i++) {
            char text[16];
            struct slice key = key_of((miss != 0 ? rows : 0) + scatter(i) % rows, text);
            struct entry e;

            if ((index_find(reader, key, &e) != 0) != (miss != 0))
                fail("index_find");
        }
        report(miss != 0 ? "index_find, miss" : "index_find, hit",
               thread_cpu_ns() - start - base_ns, calls);
    }
    index_reader_close(reader);
}

/* Checkpoints of a million rows, the first into an empty index; then 100,000 that are there. */
static bool always(void *arg)
{
    (void)arg;
    return true;
}

static void measure_index(const char *dir, uint32_t rows)
{
    uint64_t base_ns = loop_ns(1000000);
    struct index *index;

    if (index_remove(dir) != 0 || index_open(dir, 1, &index) != 0)
        fail("index_open");
    printf("index\n");
    for (uint32_t done = 0; done < rows;) {
        uint32_t n = rows - done < 1000000 ? rows - done : 1000000;

        checkpoint(index, done, n);
        done += n;
    }
    if (rows >= 100000)
        checkpoint(index, rows / 2, 100000);
    index_warm(index, always, NULL);
    look_up(index, rows, base_ns);
    index_close(index);
}

int main(int argc, char **argv)
{
    uint32_t entries = 1000000;
    uint32_t rows = 2000000;

    if (argc < 2 || argc > 4 || (argc > 2 && !parse_u32(slice_str(argv[2]), &entries)) ||
        (argc > 3 && !parse_u32(slice_str(argv[3]), &rows)) || entries == 0 || rows == 0 ||
        rows > 400000000) {
        fprintf(stderr, "usage: micro_index DIR [ENTRIES [ROWS]]\n");
        return 2;
    }
    measure_delta(entries);
    measure_index(argv[1], rows);
    return 0;
}
