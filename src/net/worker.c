/*
 * worker.c - a worker's thread: the loop, its turn, and the lists of connections to be served.
 *
 * Provides: the worker_*() calls of net.h and net_internal.h.
 * Threads:  all of it on the worker's own, but worker_init() and worker_free() (main thread, while
 *           no worker runs).
 */
#include "net/net_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

enum {
    /* Connections may wake each other without end: the rest waits for the next turn. */
    TODO_PASSES = 8,
};

/* ---- life ---- */

static int add_source(struct worker *w, int fd, void *source)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = source};

    return epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, fd, &ev) == 0 ? 0 : -errno;
}

int worker_init(struct worker *w, struct net *net, unsigned index)
{
    w->net = net;
    w->index = index;
    w->ops = net->config.ops;
    w->stop_source = SOURCE_STOP;
    w->stop_fd = -1;
    w->recv_buf = malloc(NET_RECV_BUFFER);
    w->out_buf = malloc(NET_OUTPUT_BUFFER);
    w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (w->epoll_fd == -1)
        return -errno;
    w->stop_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (w->stop_fd == -1)
        return -errno;
    if (w->recv_buf == NULL || w->out_buf == NULL)
        return -ENOMEM;
    return add_source(w, w->stop_fd, &w->stop_source);
}

void worker_free(struct worker *w)
{
    while (w->watches != NULL) {
        struct watch *watch = w->watches;

        w->watches = watch->next;
        free(watch);
    }
    if (w->stop_fd != -1)
        close(w->stop_fd);
    if (w->epoll_fd != -1)
        close(w->epoll_fd);
    free(w->out_buf);
    free(w->recv_buf);
}

int worker_watch(struct worker *w, int fd, void (*fn)(void *arg), void *arg)
{
    struct watch *watch = malloc(sizeof(*watch));
    int rc;

    if (watch == NULL)
        return -ENOMEM;
    *watch = (struct watch){.source = SOURCE_WATCH, .fn = fn, .arg = arg, .next = w->watches};
    rc = add_source(w, fd, watch);
    if (rc != 0) {
        free(watch);
        return rc;
    }
    w->watches = watch;
    return 0;
}

/* ---- who is to be served ---- */

static void list_add(struct conn_list *list, struct conn *c)
{
    c->flags |= CONN_QUEUED;
    c->todo_next = NULL;
    if (list->head == NULL)
        list->head = c;
    else
        list->tail->todo_next = c;
    list->tail = c;
}

static struct conn *list_take_all(struct conn_list *list)
{
    struct conn *head = list->head;

    list->head = NULL;
    return head;
}

void worker_todo(struct conn *c)
{
    if ((c->flags & CONN_QUEUED) == 0)
        list_add(&c->worker->todo, c);
}

void worker_again(struct conn *c)
{
    if ((c->flags & CONN_QUEUED) == 0)
        list_add(&c->worker->again, c);
}

/* Only here are connections freed, after all events of the turn: none can point to a freed one. */
static void run_todo_once(struct worker *w)
{
    struct conn *c = list_take_all(&w->todo);

    while (c != NULL) {
        struct conn *next = c->todo_next;

        c->flags &= ~(uint32_t)CONN_QUEUED;
        if (c->flags & CONN_DOOMED)
            conn_destroy(c);
        else
            conn_on_todo(c);
        c = next;
    }
}

static void run_todo(struct worker *w)
{
    for (int pass = 0; w->todo.head != NULL && pass < TODO_PASSES; pass++)
        run_todo_once(w);
    if (w->again.head == NULL)
        return;
    /* Served early in the next turn. */
    if (w->todo.head == NULL)
        w->todo.head = w->again.head;
    else
        w->todo.tail->todo_next = w->again.head;
    w->todo.tail = w->again.tail;
    w->again.head = NULL;
}

/* ---- the turn ---- */

static void begin_stop(struct worker *w)
{
    uint64_t count;
    ssize_t n = read(w->stop_fd, &count, sizeof(count));

    (void)n;
    w->stop_deadline_ms = atomic_load(&w->net->stop_deadline_ms);
    if (w->stopping)
        return;
    w->stopping = true;
    listeners_stop(w);
    for (struct conn *c = w->conns; c != NULL; c = c->next)
        conn_stop(c);
}

/* Whatever still stands when the grace is over. */
static void abort_all(struct worker *w)
{
    for (struct conn *c = w->conns; c != NULL; c = c->next)
        conn_abort(c);
}

static void dispatch(struct worker *w, const struct epoll_event *ev)
{
    switch (*(enum source *)ev->data.ptr) {
    case SOURCE_CONN: conn_on_event(ev->data.ptr, ev->events); break;
    case SOURCE_LISTENER: listener_accept(w, ev->data.ptr); break;
    case SOURCE_WATCH: {
        struct watch *watch = ev->data.ptr;

        watch->fn(watch->arg);
        break;
    }
    case SOURCE_STOP: begin_stop(w); break;
    }
}

/* Milliseconds that the loop may sleep; -1: until something happens. */
static int sleep_ms(const struct worker *w)
{
    int64_t left;

    if (w->todo.head != NULL)
        return 0;
    if (w->conn_count == 0 && !w->accept_paused)
        return -1;
    left = w->next_sweep_ms - w->now_ms;
    if (w->stopping && w->stop_deadline_ms - w->now_ms < left)
        left = w->stop_deadline_ms - w->now_ms;
    if (left < 0)
        return 0;
    return left < NET_SWEEP_MS ? (int)left : NET_SWEEP_MS;
}

static void check_time(struct worker *w)
{
    if (w->now_ms >= w->next_sweep_ms) {
        w->next_sweep_ms = w->now_ms + NET_SWEEP_MS;
        listeners_resume(w);
        limits_sweep(w);
    }
    if (w->stopping && w->now_ms >= w->stop_deadline_ms)
        abort_all(w);
}

static void turn(struct worker *w, struct epoll_event *events)
{
    int n = epoll_wait(w->epoll_fd, events, NET_EVENTS, sleep_ms(w));

    assert(n >= 0 || errno == EINTR);
    w->now_ms = clock_mono_ms();
    for (int i = 0; i < n; i++)
        dispatch(w, &events[i]);
    check_time(w);
    run_todo(w);
    w->ops->turn_end(w);
}

static void run_aio(void *arg)
{
    aio_run(arg);
}

/* 0 or -errno; then nothing is left open but what worker_free() closes. */
static int start(struct worker *w)
{
    const struct net_config *config = &w->net->config;
    int rc = aio_open(config->pool, config->use_uring, &w->aio);

    if (rc != 0)
        return rc;
    w->now_ms = clock_mono_ms();
    w->next_sweep_ms = w->now_ms + NET_SWEEP_MS;
    rc = worker_watch(w, aio_fd(w->aio), run_aio, w->aio);
    if (rc == 0)
        rc = listeners_watch(w);
    if (rc == 0)
        rc = w->ops->worker_start(w, config->app);
    if (rc != 0)
        aio_close(w->aio);
    return rc;
}

void *worker_thread(void *arg)
{
    struct worker *w = arg;
    struct epoll_event events[NET_EVENTS];
    char name[16];

    snprintf(name, sizeof(name), "tt-worker-%u", w->index % 1000);
    pthread_setname_np(pthread_self(), name);
    w->start_rc = start(w);
    if (w->start_rc != 0)
        log_error("cannot start worker %u: %s", w->index, strerror(-w->start_rc));
    sem_post(&w->net->started);
    if (w->start_rc != 0)
        return NULL;
    while (!w->stopping || w->conns != NULL || w->orphaned_reads > 0)
        turn(w, events);
    w->ops->worker_stop(w);
    aio_close(w->aio);
    return NULL;
}

/* ---- questions ---- */

void *worker_app(const struct worker *w)
{
    return w->net->config.app;
}

void worker_set_context(struct worker *w, void *context)
{
    w->context = context;
}

void *worker_context(const struct worker *w)
{
    return w->context;
}

struct counters *worker_counters(struct worker *w)
{
    return &w->counters;
}

struct aio *worker_aio(struct worker *w)
{
    return w->aio;
}

unsigned worker_index(const struct worker *w)
{
    return w->index;
}

struct net *worker_net(const struct worker *w)
{
    return w->net;
}

bool worker_stopping(const struct worker *w)
{
    return w->stopping;
}

struct budget *worker_budget(const struct worker *w)
{
    return w->net->config.budget;
}
