/*
 * ttctl_show.c - see ttctl_show.h.
 */
#include "tools/ttctl_show.h"

#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

#include "proto/http.h"

const char *show_time(int64_t unix_ms, char out[SHOW_TIME_MAX])
{
    int64_t ms = unix_ms % 1000;
    time_t s = (time_t)(unix_ms / 1000);
    struct tm tm;
    size_t len;

    if (ms < 0) {
        ms += 1000;
        s--;
    }
    if (gmtime_r(&s, &tm) == NULL || (len = strftime(out, 30, "%Y-%m-%dT%H:%M:%S", &tm)) == 0)
        snprintf(out, SHOW_TIME_MAX, "%" PRId64 "ms", unix_ms);
    else
        snprintf(out + len, SHOW_TIME_MAX - len, ".%03dZ", (int)ms);
    return out;
}

void show_key(FILE *to, struct slice key)
{
    char piece[3 * 256];

    while (key.len > 0) {
        size_t n = key.len < 256 ? key.len : 256;

        fwrite(piece, 1, http_percent_encode(slice_of(key.ptr, n), piece), to);
        key = slice_after(key, n);
    }
}

void show_finding(FILE *to, const struct walk_finding *f)
{
    static const char *const words[] = {
        [WALK_DAMAGE] = "damage", [WALK_TORN] = "unfinished", [WALK_NOTE] = "note"};

    fprintf(to, "%s: %s", words[f->kind], f->path);
    if (f->offset > 0 || f->bytes > 0)
        fprintf(to, " at offset %" PRIu64, f->offset);
    if (f->bytes > 0)
        fprintf(to, ", %" PRIu64 " bytes", f->bytes);
    fprintf(to, ": %s", f->reason);
    if (f->first_seq > 0 && f->first_seq == f->last_seq)
        fprintf(to, " (record %" PRIu64 ")", f->first_seq);
    else if (f->first_seq > 0)
        fprintf(to, " (records %" PRIu64 " to %" PRIu64 ")", f->first_seq, f->last_seq);
    if (f->has_key) {
        fputs(", key ", to);
        show_key(to, f->key);
    }
    fputc('\n', to);
}

const char *show_kind(enum record_kind kind)
{
    static const char *const names[] = {
        [RECORD_PUT] = "put",     [RECORD_DELETE] = "delete", [RECORD_COUNTER] = "counter",
        [RECORD_TOUCH] = "touch", [RECORD_FLUSH] = "flush",   [RECORD_MARKER] = "marker"};

    return names[kind];
}
