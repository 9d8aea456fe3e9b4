/*
 * identity.c - the STORE file and the vectors. See identity.h.
 */
#include "store/logstore/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/io.h"
#include "base/num.h"

#define STORE_FILE_MAX (16u * 1024)

static const char *const sync_names[] = {
    [STORE_SYNC_ALWAYS] = "always", [STORE_SYNC_INTERVAL] = "interval", [STORE_SYNC_OS] = "os"};

/* ---- writing ---- */

static void add_text(struct buf *out, const struct identity *id)
{
    (void)buf_printf(out, "ttserver store\nformat 1\nuuid ");
    for (unsigned i = 0; i < sizeof(id->uuid); i++)
        (void)buf_printf(out, "%02x", id->uuid[i]);
    (void)buf_printf(out, "\nnode %u\nepoch %" PRIu32 "\nsync %s\nsync-failed %d\n", id->node,
                     id->epoch, sync_names[id->sync], id->sync_failed);
    (void)buf_printf(out, "segments %" PRIu32 "\n", id->last_segment);
    (void)buf_printf(out, "device %" PRIu64 "\ninode %" PRIu64 "\nmachine %s\n", id->device,
                     id->inode, id->machine);
    if (id->held_from > 0)
        (void)buf_printf(out, "held-from %" PRIu64 "\n", id->held_from);
    for (unsigned i = 0; i < id->history_count; i++)
        (void)buf_printf(out, "history %016" PRIx64 " %" PRIu64 "\n", id->histories[i].id,
                         id->histories[i].first_seq);
}

int identity_write(const char *dir, const struct identity *id)
{
    struct buf text = {0};
    int rc = buf_reserve(&text, STORE_FILE_MAX); /* at once: no line may be lost on the way */

    if (rc != 0)
        return rc;
    add_text(&text, id);
    rc = buf_printf(&text, "checksum %016" PRIx64 "\n", hash_slice(buf_slice(&text)));
    if (rc == 0)
        rc = io_replace_file(dir, "STORE", text.data, text.len);
    buf_free(&text);
    return rc;
}

bool identity_same(const struct identity *a, const struct identity *b)
{
    struct buf text_a = {0};
    struct buf text_b = {0};
    bool same;

    add_text(&text_a, a);
    add_text(&text_b, b);
    same = text_a.len > 0 && slice_equal(buf_slice(&text_a), buf_slice(&text_b));
    buf_free(&text_a);
    buf_free(&text_b);
    return same;
}

/* ---- reading ---- */

/* Takes the next line off *rest and splits it at its first blank. False at the end. */
static bool next_line(struct slice *rest, struct slice *name, struct slice *value)
{
    const char *nl = rest->len == 0 ? NULL : memchr(rest->ptr, '\n', rest->len);
    const char *blank;
    size_t len;

    if (nl == NULL)
        return false;
    len = (size_t)(nl - rest->ptr);
    blank = memchr(rest->ptr, ' ', len);
    *name = slice_of(rest->ptr, blank == NULL ? len : (size_t)(blank - rest->ptr));
    *value = blank == NULL ? slice_of(nl, 0) : slice_of(blank + 1, (size_t)(nl - blank - 1));
    *rest = slice_after(*rest, len + 1);
    return true;
}

static bool read_uuid(struct slice text, unsigned char *out)
{
    for (unsigned i = 0; i < 16; i++) {
        uint64_t byte;

        if (text.len != 32 || !parse_hex_u64(slice_of(text.ptr + 2 * i, 2), &byte))
            return false;
        out[i] = (unsigned char)byte;
    }
    return true;
}

static bool read_history(struct slice text, struct identity *out)
{
    struct history *h = &out->histories[out->history_count];

    if (out->history_count == IDENTITY_HISTORIES || text.len < 18 || text.ptr[16] != ' ' ||
        !parse_hex_u64(slice_of(text.ptr, 16), &h->id) ||
        !parse_u64(slice_after(text, 17), &h->first_seq))
        return false;
    out->history_count++;
    return true;
}

static bool read_sync(struct slice text, enum store_sync *out)
{
    for (unsigned i = 0; i < sizeof(sync_names) / sizeof(sync_names[0]); i++) {
        if (slice_is(text, sync_names[i])) {
            *out = (enum store_sync)i;
            return true;
        }
    }
    return false;
}

/* One line of the file; false when its value is not what its name demands. Unknown names are for
 * later versions of the same format and are passed over. */
static bool read_field(struct slice name, struct slice value, struct identity *out)
{
    uint64_t number;

    if (slice_is(name, "uuid"))
        return read_uuid(value, out->uuid);
    if (slice_is(name, "sync"))
        return read_sync(value, &out->sync);
    if (slice_is(name, "history"))
        return read_history(value, out);
    if (slice_is(name, "epoch"))
        return parse_u32(value, &out->epoch);
    if (slice_is(name, "segments"))
        return parse_u32(value, &out->last_segment);
    if (slice_is(name, "device"))
        return parse_u64(value, &out->device);
    if (slice_is(name, "inode"))
        return parse_u64(value, &out->inode);
    if (slice_is(name, "held-from"))
        return parse_u64(value, &out->held_from);
    if (slice_is(name, "sync-failed")) {
        out->sync_failed = slice_is(value, "1");
        return true;
    }
    if (slice_is(name, "machine")) {
        if (value.len >= sizeof(out->machine))
            return false;
        if (value.len > 0)
            memcpy(out->machine, value.ptr, value.len);
        return true;
    }
    if (slice_is(name, "format"))
        return slice_is(value, "1");
    if (slice_is(name, "node")) {
        if (!parse_u64(value, &number) || number > UINT16_MAX)
            return false;
        out->node = (uint16_t)number;
    }
    return true;
}

static int parse_store(struct slice text, struct identity *out)
{
    struct slice rest = text;
    struct slice name;
    struct slice value;
    uint64_t sum = 0;

    memset(out, 0, sizeof(*out));
    if (!slice_starts(text, slice_str("ttserver store\n")))
        return -EUCLEAN;
    for (;;) {
        size_t before = text.len - rest.len;

        if (!next_line(&rest, &name, &value))
            return -EUCLEAN;
        if (slice_is(name, "checksum")) {
            if (!parse_hex_u64(value, &sum) || sum != hash_bytes(text.ptr, before))
                return -EUCLEAN;
            return out->history_count > 0 ? 0 : -EUCLEAN;
        }
        if (!read_field(name, value, out))
            return -EUCLEAN;
    }
}

int identity_read(const char *dir, struct identity *out)
{
    char *path;
    char *text = NULL;
    ssize_t len;
    int fd;
    int rc;

    if (asprintf(&path, "%s/STORE", dir) == -1)
        return -ENOMEM;
    fd = io_open(path, O_RDONLY, 0);
    free(path);
    if (fd < 0)
        return fd;
    text = malloc(STORE_FILE_MAX);
    len = text == NULL ? -ENOMEM : io_read_upto(fd, text, STORE_FILE_MAX, 0);
    rc = len < 0 ? (int)len : parse_store(slice_of(text, (size_t)len), out);
    free(text);
    close(fd);
    return rc;
}

/* ---- making ---- */

int identity_random(void *out, size_t len)
{
    ssize_t n = getrandom(out, len, 0);

    return n == -1 ? -errno : n == (ssize_t)len ? 0 : -EIO;
}

int identity_new(uint16_t node, struct identity *out)
{
    int rc;

    memset(out, 0, sizeof(*out));
    out->node = node;
    rc = identity_random(out->uuid, sizeof(out->uuid));
    return rc != 0 ? rc : identity_renew(out, 1);
}

int identity_renew(struct identity *id, uint64_t first_seq)
{
    uint32_t now = (uint32_t)(clock_wall_ms() / 1000);
    uint64_t history;
    int rc = identity_random(&history, sizeof(history));

    if (rc != 0)
        return rc;
    if (id->history_count == IDENTITY_HISTORIES) {
        memmove(id->histories, id->histories + 1,
                (IDENTITY_HISTORIES - 1) * sizeof(id->histories[0]));
        id->history_count--;
    }
    id->histories[id->history_count++] = (struct history){history, first_seq};
    id->epoch = now > id->epoch ? now : id->epoch + 1;
    return 0;
}

void identity_of_place(int lock_fd, struct identity *out)
{
    struct stat st;
    ssize_t len = 0;
    int fd;

    if (fstat(lock_fd, &st) == 0) {
        out->device = (uint64_t)st.st_dev;
        out->inode = (uint64_t)st.st_ino;
    }
    memset(out->machine, 0, sizeof(out->machine));
    fd = io_open("/etc/machine-id", O_RDONLY, 0);
    if (fd >= 0) {
        len = io_read_upto(fd, out->machine, sizeof(out->machine) - 1, 0);
        close(fd);
    }
    for (ssize_t i = 0; i < len; i++)
        if (out->machine[i] <= ' ' || out->machine[i] > '~')
            out->machine[i] = '\0';
}

uint64_t identity_salt(const struct identity *id)
{
    return hash_bytes(id->uuid, sizeof(id->uuid));
}

/* ---- vectors ---- */

static void raise(struct writer_clock *clocks, unsigned *count, struct writer_clock to)
{
    for (unsigned i = *count; i-- > 0;) {
        struct writer_clock *w = &clocks[i];

        if (w->node == to.node && w->epoch == to.epoch) {
            if (to.version > w->version)
                w->version = to.version;
            return;
        }
    }
    if (*count == VECTORS_MAX) {
        /* The oldest writer's entry makes room: forgetting what is covered only costs
         * comparisons. */
        memmove(clocks, clocks + 1, (VECTORS_MAX - 1) * sizeof(clocks[0]));
        --*count;
    }
    clocks[(*count)++] = to;
}

void vectors_raise(struct vectors *v, struct stamp s)
{
    raise(v->held, &v->count, (struct writer_clock){s.node, s.epoch, s.version});
}

void vectors_raise_removed(struct vectors *v, struct stamp logged)
{
    raise(v->removed, &v->removed_count,
          (struct writer_clock){logged.node, logged.epoch, logged.version});
}

void vectors_merge(struct vectors *v, const struct vectors *other)
{
    for (unsigned i = 0; i < other->count; i++)
        raise(v->held, &v->count, other->held[i]);
    for (unsigned i = 0; i < other->removed_count; i++)
        raise(v->removed, &v->removed_count, other->removed[i]);
    if (other->next_big_file > v->next_big_file)
        v->next_big_file = other->next_big_file;
}

#define CLOCK_BYTES 14u
#define VECTORS_FIXED 8u

static unsigned char *put_clocks(unsigned char *p, const struct writer_clock *clocks,
                                 unsigned count)
{
    put_u16le(p, (uint16_t)count);
    p += 2;
    for (unsigned i = 0; i < count; i++, p += CLOCK_BYTES) {
        put_u16le(p, clocks[i].node);
        put_u32le(p + 2, clocks[i].epoch);
        put_u64le(p + 6, clocks[i].version);
    }
    return p;
}

/* False: the bytes end before the list does. */
static bool get_clocks(struct slice *rest, struct writer_clock *clocks, unsigned *count)
{
    const unsigned char *p = (const unsigned char *)rest->ptr;
    unsigned n = rest->len < 2 ? 0 : get_u16le(p);

    *count = 0;
    if (rest->len < 2 || n > VECTORS_MAX || rest->len - 2 < n * CLOCK_BYTES)
        return false;
    p += 2;
    for (unsigned i = 0; i < n; i++, p += CLOCK_BYTES)
        clocks[i] = (struct writer_clock){get_u16le(p), get_u32le(p + 2), get_u64le(p + 6)};
    *count = n;
    *rest = slice_after(*rest, 2 + n * CLOCK_BYTES);
    return true;
}

int vectors_encode(const struct vectors *v, struct buf *out)
{
    size_t len = VECTORS_FIXED + 3 * 2 + (v->count + v->removed_count) * CLOCK_BYTES;
    unsigned char *p;
    int rc = buf_reserve(out, len);

    if (rc != 0)
        return rc;
    p = (unsigned char *)out->data + out->len;
    put_u64le(p, v->next_big_file);
    p = put_clocks(p + VECTORS_FIXED, v->held, v->count);
    p = put_clocks(p, v->removed, v->removed_count);
    put_u16le(p, 0); /* positions in peers' logs: none */
    out->len += len;
    return 0;
}

bool vectors_decode(struct slice bytes, struct vectors *out)
{
    out->count = out->removed_count = 0;
    out->next_big_file = 1;
    if (bytes.len == 0)
        return true;
    if (bytes.len < VECTORS_FIXED)
        return false;
    out->next_big_file = get_u64le((const unsigned char *)bytes.ptr);
    bytes = slice_after(bytes, VECTORS_FIXED);
    return get_clocks(&bytes, out->held, &out->count) &&
           get_clocks(&bytes, out->removed, &out->removed_count);
}
