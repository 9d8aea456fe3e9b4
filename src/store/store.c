/*
 * store.c - the engine-independent half of store.h: writes, ports' queues, dispatch.
 *
 * Used by:  command and sessions through store.h; engines through engine.h.
 * Threads:  a port's calls on its own thread; store_write_finish() on any.
 */
#include "store/store.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "store/engine.h"

const char *store_status_text(enum store_status status)
{
    static const char *const texts[] = {
        [STORE_OK] = "ok",
        [STORE_NOT_FOUND] = "not found",
        [STORE_EXISTS] = "another version is present",
        [STORE_NOT_STORED] = "condition not met",
        [STORE_BAD_VALUE] = "the present value does not suit",
        [STORE_TOO_LARGE] = "value too large",
        [STORE_NO_MEMORY] = "out of memory",
        [STORE_NO_SPACE] = "no space left on the disk",
        [STORE_READ_ONLY] = "read-only after a failed sync",
        [STORE_DAMAGED] = "record is damaged",
        [STORE_IO_ERROR] = "input/output error",
    };

    return texts[status];
}

/* ---- writes ---- */

/* Key, attributes and value lie behind the struct, one behind the other: one checksum call, one
 * piece to write. */
static void write_set_parts(struct store_write *w, size_t key_len, size_t attrs_len,
                            size_t value_len)
{
    char *body = (char *)(w + 1);

    w->key = slice_of(body, key_len);
    w->attrs = slice_of(body + key_len, attrs_len);
    w->value = body + key_len + attrs_len;
    w->value_len = value_len;
}

struct store_write *store_write_new(struct store_port *port, struct slice key, struct slice attrs,
                                    size_t value_len)
{
    struct store_write *w = malloc(sizeof(*w) + key.len + attrs.len + value_len);

    if (w == NULL)
        return NULL;
    memset(w, 0, sizeof(*w));
    w->port = port;
    write_set_parts(w, key.len, attrs.len, value_len);
    if (key.len > 0)
        memcpy((char *)(w + 1), key.ptr, key.len);
    if (attrs.len > 0)
        memcpy((char *)(w + 1) + key.len, attrs.ptr, attrs.len);
    return w;
}

struct store_write *store_write_grow(struct store_write *w, size_t value_len)
{
    size_t key_len = w->key.len;
    size_t attrs_len = w->attrs.len;
    struct store_write *grown = realloc(w, sizeof(*w) + key_len + attrs_len + value_len);

    if (grown != NULL)
        write_set_parts(grown, key_len, attrs_len, value_len);
    return grown;
}

void store_write_submit(struct store_write *w)
{
    struct store_port *port = w->port;

    assert(w->done != NULL);
    port->store->engine->prepare(w);
    w->next = NULL;
    *port->turn_last = w;
    port->turn_last = &w->next;
    port->pending++;
}

void store_write_free(struct store_write *w)
{
    free(w);
}

/* Puts a chain, newest first, on the port's list. */
static void push_done(struct store_port *port, struct store_write *newest,
                      struct store_write *oldest)
{
    struct store_write *head = atomic_load_explicit(&port->done, memory_order_relaxed);
    uint64_t one = 1;

    do {
        oldest->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&port->done, &head, newest,
                                                    memory_order_release, memory_order_relaxed));
    /* Only the first of them wakes the port. It cannot fail: the counter is far from its end. */
    if (head == NULL && write(port->event_fd, &one, sizeof(one)) != sizeof(one))
        assert(errno == EAGAIN);
}

void store_write_finish(struct store_write *const *writes, unsigned count)
{
    unsigned i = 0;

    /* What goes to one port goes by one step; once it is there it may be freed. */
    while (i < count) {
        struct store_write *oldest = writes[i];
        struct store_write *newest = oldest;
        struct store_port *port = oldest->port;

        for (i++; i < count && writes[i]->port == port; i++) {
            writes[i]->next = newest;
            newest = writes[i];
        }
        push_done(port, newest, oldest);
    }
}

/* Turns the newest-first chain into submission order. */
static struct store_write *chain_reverse(struct store_write *w)
{
    struct store_write *first = NULL;

    while (w != NULL) {
        struct store_write *next = w->next;

        w->next = first;
        first = w;
        w = next;
    }
    return first;
}

void store_port_complete(struct store_port *port)
{
    uint64_t count;
    struct store_write *w;

    if (read(port->event_fd, &count, sizeof(count)) != sizeof(count))
        assert(errno == EAGAIN);
    w = chain_reverse(atomic_exchange_explicit(&port->done, NULL, memory_order_acquire));
    while (w != NULL) {
        struct store_write *next = w->next;

        port->pending--;
        w->done(w);
        w = next;
    }
}

/* ---- ports ---- */

int store_port_init(struct store_port *port, struct store *store, struct aio *aio)
{
    port->store = store;
    port->aio = aio;
    port->turn_last = &port->turn_first;
    port->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return port->event_fd == -1 ? -errno : 0;
}

void store_port_fini(struct store_port *port)
{
    assert(port->pending == 0);
    close(port->event_fd);
}

int store_port_open(struct store *store, struct aio *aio, struct store_port **out)
{
    return store->engine->port_open(store, aio, out);
}

void store_port_close(struct store_port *port)
{
    port->store->engine->port_close(port);
}

int store_port_fd(const struct store_port *port)
{
    return port->event_fd;
}

void store_port_run(struct store_port *port)
{
    port->store->engine->port_run(port);
}

void store_port_flush(struct store_port *port)
{
    struct store_write *first = port->turn_first;

    if (first == NULL)
        return;
    port->turn_first = NULL;
    port->turn_last = &port->turn_first;
    port->store->engine->write(port, first);
}

size_t store_port_pending(const struct store_port *port)
{
    return port->pending;
}

/* ---- reads ---- */

bool store_get(struct store_port *port, struct store_get *get)
{
    return port->store->engine->get(port, get);
}

void *store_get_take_hold(struct store_get *get)
{
    void *hold = get->hold;

    get->hold = NULL;
    return hold;
}

void store_hold_release(void *hold)
{
    struct store_hold *h = hold;

    if (h != NULL)
        h->release(h);
}

const _Atomic bool *store_hold_revoked(const void *hold)
{
    return hold == NULL ? NULL : ((const struct store_hold *)hold)->revoked;
}

void store_get_release(struct store_get *get)
{
    store_hold_release(store_get_take_hold(get));
}

/* ---- the whole ---- */

int store_spool_open(struct store_port *port, struct slice key, struct slice attrs,
                     uint64_t value_bytes, void (*on_room)(void *arg), void *arg,
                     struct store_spool **out)
{
    return port->store->engine->spool_open(port, key, attrs, value_bytes, on_room, arg, out);
}

int store_scan(struct store *store, const struct store_range *range, unsigned limit,
               bool (*each)(const struct store_scan_item *item, void *arg), void *arg)
{
    return store->engine->scan(store, range, limit, each, arg);
}

struct key_scan {
    void (*each)(struct slice key, void *arg);
    void *arg;
};

static bool give_key(const struct store_scan_item *item, void *arg)
{
    const struct key_scan *s = arg;

    s->each(item->key, s->arg);
    return true;
}

int store_scan_keys(struct store *store, struct slice prefix, bool have_after, struct slice after,
                    unsigned limit, void (*each)(struct slice key, void *arg), void *arg)
{
    struct store_range range = {.prefix = prefix, .has_after = have_after, .after = after};
    struct key_scan s = {each, arg};

    return store_scan(store, &range, limit, give_key, &s);
}

enum store_state store_state(const struct store *store)
{
    return store->engine->state(store);
}

unsigned store_progress(const struct store *store)
{
    return store->engine->progress(store);
}

bool store_writable(const struct store *store, const char **reason)
{
    return store->engine->writable(store, reason);
}

int64_t store_now_ms(const struct store *store)
{
    return store->engine->now_ms(store);
}

uint64_t store_count(const struct store *store)
{
    return store->engine->count(store);
}

int store_backup_begin(struct store *store, int64_t lease_ms, uint64_t *token, struct buf *list)
{
    return store->engine->backup_begin(store, lease_ms, token, list);
}

int store_backup_renew(struct store *store, uint64_t token, int64_t lease_ms)
{
    return store->engine->backup_renew(store, token, lease_ms);
}

int store_backup_end(struct store *store, uint64_t token)
{
    return store->engine->backup_end(store, token);
}

int store_close(struct store *store)
{
    return store->engine->close(store);
}

void store_compact(struct store *store)
{
    store->engine->compact(store);
}

int store_stat(struct store *store, struct buf *out)
{
    return store->engine->stat(store, out);
}
