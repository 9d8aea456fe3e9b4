/*
 * mc_stats.c - memcached text: the replies of `stats` and `ready`.
 *
 * Provides: mc_answer_stats(), mc_answer_ready().
 * Used by:  mc_session.c.
 * Threads:  the connection's worker.
 */
#include "session/mc_session.h"

#include <stdio.h>

#include "session/stats.h"

/* "STAT <name> <value>" to the connection in arg. */
static void write_stat(const char *name, const char *value, const char *help, bool is_counter,
                       void *arg)
{
    struct conn *c = arg;

    (void)help;
    (void)is_counter;
    conn_write(c, "STAT ", 5);
    conn_write(c, name, strlen(name));
    conn_write(c, " ", 1);
    conn_write(c, value, strlen(value));
    conn_write(c, "\r\n", 2);
}

static void answer_general(struct mc_session *s)
{
    stats_general(mc_worker(s)->app, write_stat, s->conn);
}

static void answer_settings(struct mc_session *s)
{
    stats_settings(mc_worker(s)->app, write_stat, s->conn);
}

/* What has no counterpart here: an empty list is a legal answer. */
static void answer_nothing(struct mc_session *s)
{
    (void)s;
}

void mc_answer_stats(struct mc_session *s, struct slice args)
{
    static const struct {
        const char *name;
        void (*answer)(struct mc_session *s);
    } kinds[] = {
        {"", answer_general},          {"settings", answer_settings}, {"items", answer_nothing},
        {"slabs", answer_nothing},     {"sizes", answer_nothing},     {"conns", answer_nothing},
        {"cachedump", answer_nothing},
    };
    struct slice word = slice_of(NULL, 0);

    mc_next_word(&args, &word);
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (slice_is(word, kinds[i].name)) {
            kinds[i].answer(s);
            conn_write(s->conn, "END\r\n", 5);
            return;
        }
    }
    if (slice_is(word, "reset")) {
        stats_reset(mc_worker(s)->app);
        conn_write(s->conn, "RESET\r\n", 7);
        return;
    }
    mc_say_error(s, slice_is(word, "detail") ? MC_ERROR_STATS_DETAIL : MC_ERROR_UNKNOWN, false);
}

void mc_answer_ready(struct mc_session *s, struct slice args)
{
    struct slice word = slice_of(NULL, 0);
    const char *state = "";
    char line[256];
    bool for_write;
    bool is_ready;
    int n;

    for_write = mc_next_word(&args, &word) && slice_is(word, "write");
    is_ready = session_is_ready(mc_worker(s)->app, for_write, &state);
    if (is_ready)
        n = snprintf(line, sizeof(line), "READY weight=100 lag_ms=0\r\n");
    else
        n = snprintf(line, sizeof(line), "NOTREADY %.160s lag_ms=0\r\n", state);
    conn_write(s->conn, line, (size_t)n);
}
