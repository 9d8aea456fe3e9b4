/*
 * signals.c - SIGTERM, SIGINT and SIGHUP as events of the main thread: see signals.h.
 */
#include "main/signals.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

/* A stop that comes again sooner is the same one: timeout(1) and some supervisors signal both the
 * process and its group. */
#define SAME_STOP_MS 1000

/* Tells the thread to end; nobody else sends it. */
#define SIGNAL_END SIGUSR2

static struct {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    void (*on_exit)(void);
    sigset_t set;
    bool serving;
    int stop;        /* the signal that asked for it; 0: none */
    int64_t stop_ms; /* when it came, monotonic */
    bool ending;
} signals = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static const char *stop_name(int signal)
{
    return signal == SIGINT ? "SIGINT" : "SIGTERM";
}

/* SIGTERM or SIGINT. Returns only while serving, if this is the first or belongs to it. */
static void take_stop(int signal)
{
    int64_t now_ms = clock_mono_ms();
    bool serving, patient;

    pthread_mutex_lock(&signals.mutex);
    serving = signals.serving;
    if (serving && signals.stop == 0) {
        signals.stop = signal;
        signals.stop_ms = now_ms;
        pthread_cond_signal(&signals.changed);
    }
    patient = serving && now_ms - signals.stop_ms < SAME_STOP_MS;
    pthread_mutex_unlock(&signals.mutex);
    if (patient)
        return;
    if (serving)
        log_warn("%s came again: exiting at once; the next start recovers what is on disk",
                 stop_name(signal));
    else
        log_warn("%s came before the server was ready: exiting", stop_name(signal));
    signals.on_exit();
    _exit(1);
}

static bool is_ending(void)
{
    bool ending;

    pthread_mutex_lock(&signals.mutex);
    ending = signals.ending;
    pthread_mutex_unlock(&signals.mutex);
    return ending;
}

static void *signal_thread(void *arg)
{
    (void)arg;
    while (!is_ending()) {
        int signal;

        if (sigwait(&signals.set, &signal) != 0)
            continue;
        if (signal == SIGTERM || signal == SIGINT)
            take_stop(signal);
        else if (signal == SIGHUP)
            log_reopen(); /* says itself what went wrong */
    }
    return NULL;
}

static void init_condition(void)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&signals.changed, &attr);
    pthread_condattr_destroy(&attr);
}

int signals_start(void (*on_exit)(void))
{
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a limit on the size of files is an error of the write */
    signal(SIGUSR1, SIG_IGN);
    init_condition();
    signals.on_exit = on_exit;
    sigemptyset(&signals.set);
    sigaddset(&signals.set, SIGTERM);
    sigaddset(&signals.set, SIGINT);
    sigaddset(&signals.set, SIGHUP);
    sigaddset(&signals.set, SIGNAL_END);
    pthread_sigmask(SIG_BLOCK, &signals.set, NULL);
    return -pthread_create(&signals.thread, NULL, signal_thread, NULL);
}

void signals_serving(void)
{
    pthread_mutex_lock(&signals.mutex);
    signals.serving = true;
    pthread_mutex_unlock(&signals.mutex);
}

static struct timespec deadline_after(int64_t ms)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += (time_t)(ms / 1000);
    t.tv_nsec += (long)(ms % 1000) * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_nsec -= 1000000000;
        t.tv_sec++;
    }
    return t;
}

bool signals_wait(int64_t timeout_ms, const char **name)
{
    struct timespec deadline = deadline_after(timeout_ms > 0 ? timeout_ms : 0);
    int rc = 0;
    bool stop;

    pthread_mutex_lock(&signals.mutex);
    while (signals.stop == 0 && rc == 0) {
        if (timeout_ms < 0)
            rc = pthread_cond_wait(&signals.changed, &signals.mutex);
        else
            rc = pthread_cond_timedwait(&signals.changed, &signals.mutex, &deadline);
    }
    stop = signals.stop != 0;
    if (stop)
        *name = stop_name(signals.stop);
    pthread_mutex_unlock(&signals.mutex);
    return stop;
}

void signals_end(void)
{
    pthread_mutex_lock(&signals.mutex);
    signals.ending = true;
    pthread_mutex_unlock(&signals.mutex);
    pthread_kill(signals.thread, SIGNAL_END);
    pthread_join(signals.thread, NULL);
    pthread_cond_destroy(&signals.changed);
}
