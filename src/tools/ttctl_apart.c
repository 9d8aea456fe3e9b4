/*
 * ttctl_apart.c - see ttctl_apart.h.
 */
#include "tools/ttctl_apart.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* Problems that are told; all are counted. */
#define SAY_MAX 100u

/* What the child writes into the pipe. */
struct result {
    int rc;
    struct index_probe probe;
};

struct telling {
    const struct walk *w;
    bool tell;
    uint64_t problems;
};

static void on_problem(const char *text, void *arg)
{
    struct telling *t = arg;

    if (++t->problems <= SAY_MAX && t->tell)
        printf("damage: %s/index: %s\n", t->w->dir, text);
}

/* ---- in the child ---- */

/* The position; -ENOENT of an empty index is none of a missing one. */
static int read_position(const struct walk *w, struct index *index, struct index_probe *out)
{
    char *room = malloc(INDEX_VECTORS_MAX);
    struct index_meta meta;
    int rc = room == NULL ? -ENOMEM : index_read_meta(index, &meta, room);

    if (rc == 0 && memcmp(meta.store_uuid, w->id.uuid, sizeof(meta.store_uuid)) != 0) {
        snprintf(out->why, sizeof(out->why), "it belongs to another store");
        rc = -EUCLEAN;
    }
    out->seq = rc == 0 ? meta.seq : 0;
    free(room);
    return rc == -ENOENT ? 0 : rc;
}

static int look(const struct walk *w, bool whole, bool tell, struct index_probe *out)
{
    struct telling t = {.w = w, .tell = tell};
    char path[PATH_MAX];
    struct index *index = NULL;
    const char *why = NULL;
    int rc = snprintf(path, sizeof(path), "%s/index", w->dir) >= (int)sizeof(path)
                 ? -ENAMETOOLONG
                 : index_open_read_only(path, &index, &why);

    if (rc == 0)
        rc = read_position(w, index, out);
    if (rc == 0 && whole)
        rc = index_check(index, &out->counts, on_problem, &t);
    out->problems = t.problems;
    if (rc != 0 && out->why[0] == '\0')
        snprintf(out->why, sizeof(out->why), "%s", why != NULL ? why : strerror(-rc));
    index_close(index);
    return rc;
}

/* A crash is expected, and nobody's business. */
static void crash_quietly(void)
{
    static const int deaths[] = {SIGSEGV, SIGBUS, SIGFPE, SIGABRT};

    prctl(PR_SET_DUMPABLE, 0);
    for (size_t i = 0; i < sizeof(deaths) / sizeof(deaths[0]); i++)
        signal(deaths[i], SIG_DFL);
}

/* ---- in the parent ---- */

/* All of it, or false. */
static bool read_result(int fd, struct result *out)
{
    size_t got = 0;

    while (got < sizeof(*out)) {
        ssize_t n = read(fd, (char *)out + got, sizeof(*out) - got);

        if (n == 0 || (n < 0 && errno != EINTR))
            return false;
        got += n > 0 ? (size_t)n : 0;
    }
    return true;
}

int index_probe_apart(const struct walk *w, bool whole, bool tell, struct index_probe *out)
{
    struct result result = {0};
    int ends[2];
    pid_t child;

    fflush(stdout);
    if (pipe2(ends, O_CLOEXEC) != 0)
        return -errno;
    child = fork();
    if (child == 0) {
        crash_quietly();
        result.rc = look(w, whole, tell, &result.probe);
        fflush(stdout);
        _exit(write(ends[1], &result, sizeof(result)) == (ssize_t)sizeof(result) ? 0 : 1);
    }
    close(ends[1]);
    if (child == -1) {
        result.rc = -errno;
        snprintf(result.probe.why, sizeof(result.probe.why), "no process for it: %s",
                 strerror(errno));
    } else if (!read_result(ends[0], &result)) {
        result = (struct result){.rc = -EUCLEAN, .probe = {.why = "whoever reads it crashes"}};
    }
    close(ends[0]);
    while (child != -1 && waitpid(child, NULL, 0) == -1 && errno == EINTR)
        continue;
    *out = result.probe;
    return result.rc;
}
