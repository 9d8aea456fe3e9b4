/*
 * ttctl_backup.c - `ttctl backup`: a consistent copy of a running store, by links.
 *
 * Used by:  the table of commands.
 * Threads:  one.
 *
 * The server syncs, names the files, and keeps their names while its lease runs (POST /-/backup);
 * the links are made here, with our own rights, on the server's machine. Closed segments and files
 * of big values never change, so a later backup into the same directory links only what is new. New
 * files come first, STORE then, and last the files go that are not in it any more: broken off at any
 * point the directory still holds the backup before, or this one.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/io.h"
#include "base/num.h"
#include "store/logstore/identity.h"
#include "tools/ttctl_commands.h"

const char backup_more[] =
    "Makes a backup of the running store in DIR, which is new, empty, or an earlier\n"
    "backup of the same store: then only what is new is added. It is the store at one\n"
    "moment; writes go on meanwhile. ttctl runs on the server's machine, with rights\n"
    "to read its data directory. On the same file system a backup takes no room but\n"
    "for the newest segment: its files are links. `ttctl restore` makes a data\n"
    "directory of it; `ttctl verify DIR` checks it.\n";

#define LEASE_S 120
#define RENEW_MS 20000
#define COPY_BYTES (1024u * 1024)

struct backup {
    struct ctl *ctl;
    const char *to;
    char from[PATH_MAX]; /* the server's data directory */
    uint64_t token;
    uint32_t last_segment;
    int64_t renewed_ms; /* monotonic */
    uint64_t kept;      /* files that were there already */
    uint64_t linked;
    uint64_t copied;
    uint64_t copied_bytes;
    uint64_t removed;
};

/* ---- the lease ---- */

/* POST /-/backup/WHAT. CTL_OK, or CTL_FAILED (said). */
static int post(struct backup *b, const char *target, struct client_reply *reply)
{
    static const struct client_body nothing;
    const char *message;

    if (client_request(b->ctl->client, "POST", slice_str(target), &nothing, NULL, reply,
                       &message) != 0)
        return command_fail("%s", message);
    return reply->status == 200 ? CTL_OK : command_fail_status(reply);
}

static int renew(struct backup *b)
{
    struct client_reply reply = {0};
    char target[96];
    int status;

    if (clock_mono_ms() - b->renewed_ms < RENEW_MS)
        return CTL_OK;
    snprintf(target, sizeof(target), "/-/backup/renew?token=%" PRIu64 "&lease=%d", b->token,
             LEASE_S);
    status = post(b, target, &reply);
    if (status != CTL_OK && reply.status == 404)
        (void)command_fail("the server has ended the lease: the backup is not complete");
    buf_free(&reply.text);
    b->renewed_ms = clock_mono_ms();
    return status;
}

static int end_lease(struct backup *b)
{
    struct client_reply reply = {0};
    char target[96];
    int status;

    snprintf(target, sizeof(target), "/-/backup/end?token=%" PRIu64, b->token);
    status = post(b, target, &reply);
    buf_free(&reply.text);
    return status;
}

/* ---- files ---- */

static int fail(int rc, const char *what, const char *path)
{
    return command_fail("cannot %s %s: %s", what, path, strerror(-rc));
}

static int join(char out[PATH_MAX], const char *dir, const char *sub, const char *name)
{
    return snprintf(out, PATH_MAX, "%s/%s%s%s", dir, sub, sub[0] == '\0' ? "" : "/", name) >=
                   PATH_MAX
               ? -ENAMETOOLONG
               : 0;
}

/* Copies the first `bytes` of a file and syncs them. 0, -errno, or -ECANCELED (said). */
static int copy_bytes(struct backup *b, int from, int to, uint64_t bytes)
{
    char *piece = malloc(COPY_BYTES);
    int rc = piece == NULL ? -ENOMEM : 0;

    for (uint64_t at = 0; rc == 0 && at < bytes;) {
        size_t n = bytes - at < COPY_BYTES ? (size_t)(bytes - at) : COPY_BYTES;

        rc = io_read_full(from, piece, n, (off_t)at);
        if (rc == 0)
            rc = io_write_full(to, piece, n, (off_t)at);
        if (rc == 0 && renew(b) != CTL_OK)
            rc = -ECANCELED;
        at += n;
    }
    free(piece);
    return rc == 0 ? io_fsync(to) : rc;
}

/* A copy under a name of its own, then its name. 0, -errno, or -ECANCELED (said). */
static int copy_file(struct backup *b, const char *from, const char *to, uint64_t bytes)
{
    char making[PATH_MAX];
    int source = io_open(from, O_RDONLY, 0);
    int target = -1;
    int rc = source < 0 ? source : 0;

    if (rc == 0 && snprintf(making, sizeof(making), "%s.new", to) >= (int)sizeof(making))
        rc = -ENAMETOOLONG;
    if (rc == 0) {
        target = io_open(making, O_WRONLY | O_CREAT | O_TRUNC, 0640);
        rc = target < 0 ? target : copy_bytes(b, source, target, bytes);
    }
    if (rc == 0)
        rc = io_rename(making, to);
    else if (target >= 0)
        (void)io_unlink(making);
    if (source >= 0)
        close(source);
    if (target >= 0)
        close(target);
    if (rc == 0) {
        b->copied++;
        b->copied_bytes += bytes;
    }
    return rc;
}

/* True: the backup has this very file, or a copy of it that is complete. A name is used once only,
 * and what it names does not change, so the length decides. */
static bool is_there(const char *from, const char *to, uint64_t bytes)
{
    struct stat a;
    struct stat b;

    if (stat(to, &b) != 0 || stat(from, &a) != 0)
        return false;
    return (a.st_dev == b.st_dev && a.st_ino == b.st_ino) || (uint64_t)b.st_size == bytes;
}

/* A file that never changes: a link, or a copy where links cannot be. CTL_OK or CTL_FAILED (said). */
static int take_closed(struct backup *b, const char *sub, const char *name, uint64_t bytes)
{
    char from[PATH_MAX];
    char to[PATH_MAX];
    int rc = join(from, b->from, sub, name);

    if (rc == 0)
        rc = join(to, b->to, sub, name);
    if (rc != 0)
        return fail(rc, "name", name);
    if (is_there(from, to, bytes)) {
        b->kept++;
        return renew(b);
    }
    rc = io_link(from, to);
    if (rc == -EEXIST) { /* it was the newest segment at the last backup: a copy of its beginning */
        rc = io_unlink(to);
        if (rc == 0)
            rc = io_link(from, to);
    }
    if (rc == 0)
        b->linked++;
    else if (rc == -EXDEV || rc == -EPERM || rc == -EMLINK || rc == -EOPNOTSUPP)
        rc = copy_file(b, from, to, bytes);
    if (rc == -ECANCELED)
        return CTL_FAILED;
    return rc == 0 ? renew(b) : fail(rc, "take", from);
}

static int take_open(struct backup *b, const char *name, uint64_t bytes)
{
    char from[PATH_MAX];
    char to[PATH_MAX];
    int rc = join(from, b->from, "log", name);

    if (rc == 0)
        rc = join(to, b->to, "log", name);
    if (rc == 0)
        rc = copy_file(b, from, to, bytes);
    if (rc == -ECANCELED)
        return CTL_FAILED;
    return rc == 0 ? CTL_OK : fail(rc, "copy", name);
}

/* ---- the server's list ---- */

static bool next_line(struct slice *rest, struct slice *line)
{
    const char *end = rest->len == 0 ? NULL : memchr(rest->ptr, '\n', rest->len);

    if (end == NULL)
        return false;
    *line = slice_of(rest->ptr, (size_t)(end - rest->ptr));
    *rest = slice_after(*rest, line->len + 1);
    return true;
}

/* Cuts the first word off. */
static struct slice take_word(struct slice *line)
{
    size_t len = 0;
    struct slice word;

    while (len < line->len && line->ptr[len] != ' ')
        len++;
    word = slice_of(line->ptr, len);
    *line = slice_after(*line, len < line->len ? len + 1 : len);
    return word;
}

/* A plain file name: the server's words are not trusted with paths. */
static bool take_name(struct slice *line, char out[64])
{
    struct slice word = take_word(line);

    if (word.len == 0 || word.len >= 64 || word.ptr[0] == '.' ||
        memchr(word.ptr, '/', word.len) != NULL)
        return false;
    memcpy(out, word.ptr, word.len);
    out[word.len] = '\0';
    return true;
}

/* One line of the list. CTL_OK, CTL_FAILED (said). */
static int take_line(struct backup *b, struct slice line)
{
    struct slice word = take_word(&line);
    char name[64];
    uint64_t bytes;

    if (!slice_is(word, "closed") && !slice_is(word, "open"))
        return CTL_OK;
    if (!take_name(&line, name) || !parse_u64(take_word(&line), &bytes))
        return command_fail("the server's list of files makes no sense");
    return slice_is(word, "open") ? take_open(b, name, bytes) : take_closed(b, "log", name, bytes);
}

/* Token, directory and last segment. CTL_OK or CTL_FAILED (said). */
static int read_head(struct backup *b, struct slice rest)
{
    struct slice line;

    while (next_line(&rest, &line)) {
        struct slice word = take_word(&line);

        if (slice_is(word, "token"))
            (void)parse_u64(line, &b->token);
        else if (slice_is(word, "last_segment"))
            (void)parse_u32(line, &b->last_segment);
        else if (slice_is(word, "dir") && line.len < sizeof(b->from))
            memcpy(b->from, line.ptr, line.len);
    }
    if (b->token == 0 || b->from[0] != '/' || b->last_segment == 0)
        return command_fail("the server's list of files makes no sense");
    return CTL_OK;
}

/* ---- directories ---- */

/* Calls each(name) for the files of a directory that end so. CTL_OK or CTL_FAILED (said). */
static int walk_files(struct backup *b, const char *dir, const char *sub, const char *end,
                      int (*each)(struct backup *b, const char *sub, const char *name))
{
    char path[PATH_MAX];
    DIR *d = join(path, dir, sub, "") == 0 ? opendir(path) : NULL;
    struct dirent *entry;
    int status = d == NULL ? fail(-errno, "read", path) : CTL_OK;

    while (status == CTL_OK && (entry = readdir(d)) != NULL) {
        size_t len = strlen(entry->d_name);

        if (entry->d_name[0] != '.' && len > strlen(end) &&
            strcmp(entry->d_name + len - strlen(end), end) == 0)
            status = each(b, sub, entry->d_name);
    }
    if (d != NULL)
        closedir(d);
    return status;
}

static int take_big(struct backup *b, const char *sub, const char *name)
{
    char path[PATH_MAX];
    struct stat st;

    if (join(path, b->from, sub, name) != 0 || stat(path, &st) != 0)
        return errno == ENOENT ? CTL_OK : fail(-errno, "read", path);
    return take_closed(b, sub, name, (uint64_t)st.st_size);
}

/* A file that the store does not have any more. */
static int drop_gone(struct backup *b, const char *sub, const char *name)
{
    char from[PATH_MAX];
    char to[PATH_MAX];
    int rc;

    if (join(from, b->from, sub, name) != 0 || access(from, F_OK) == 0)
        return CTL_OK;
    rc = join(to, b->to, sub, name);
    if (rc == 0)
        rc = io_unlink(to);
    b->removed += rc == 0;
    return rc == 0 ? CTL_OK : fail(rc, "remove", to);
}

static int drop_broken(struct backup *b, const char *sub, const char *name)
{
    char path[PATH_MAX];

    if (join(path, b->to, sub, name) == 0)
        (void)io_unlink(path);
    return CTL_OK;
}

/* The backup's directory: new, empty, or an earlier backup of this store. */
static int prepare(struct backup *b, const struct identity *store)
{
    static const char *const subs[] = {"log", "big"};
    struct identity before;
    char path[PATH_MAX];
    int rc = io_make_dir(b->to, 0750);

    if (rc != 0 && rc != -EEXIST)
        return fail(rc, "make", b->to);
    rc = identity_read(b->to, &before);
    if (rc == 0 && memcmp(before.uuid, store->uuid, sizeof(before.uuid)) != 0)
        return command_fail("%s holds another store: name another directory", b->to);
    if (rc != 0 && rc != -ENOENT)
        return fail(rc, "read STORE in", b->to);
    if (join(path, b->to, "", "lock") == 0 && access(path, F_OK) == 0)
        return command_fail("%s is a data directory, not a backup: name another directory", b->to);
    for (size_t i = 0; i < 2; i++) {
        rc = join(path, b->to, subs[i], "");
        if (rc == 0)
            rc = io_make_dir(path, 0750);
        if (rc != 0 && rc != -EEXIST)
            return fail(rc, "make", path);
        if (walk_files(b, b->to, subs[i], ".new", drop_broken) != CTL_OK)
            return CTL_FAILED;
    }
    return CTL_OK;
}

static int sync_dirs(const struct backup *b)
{
    static const char *const subs[] = {"log", "big", ""};
    char path[PATH_MAX];
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < 3; i++) {
        rc = join(path, b->to, subs[i], "");
        if (rc == 0)
            rc = io_sync_dir(path);
    }
    return rc == 0 ? CTL_OK : fail(rc, "sync", b->to);
}

/* ---- the command ---- */

static int take_files(struct backup *b, struct slice list)
{
    struct slice line;
    struct identity id;
    int rc = identity_read(b->from, &id);
    int status;

    if (rc != 0)
        return command_fail("cannot read %s/STORE: %s (ttctl backup runs on the server's machine, "
                            "with rights to read its data)",
                            b->from, rc == -EUCLEAN ? "it makes no sense" : strerror(-rc));
    status = prepare(b, &id);
    while (status == CTL_OK && next_line(&list, &line))
        status = take_line(b, line);
    if (status == CTL_OK)
        status = walk_files(b, b->from, "big", ".val", take_big);
    if (status == CTL_OK)
        status = sync_dirs(b);
    if (status != CTL_OK)
        return status;
    id.last_segment = b->last_segment;
    rc = identity_write(b->to, &id);
    if (rc != 0)
        return fail(rc, "write STORE in", b->to);
    status = walk_files(b, b->to, "log", ".seg", drop_gone);
    return status == CTL_OK ? walk_files(b, b->to, "big", ".val", drop_gone) : status;
}

int run_backup(struct ctl *ctl, int argc, char *const argv[])
{
    struct backup b = {.ctl = ctl, .renewed_ms = clock_mono_ms()};
    struct client_reply reply = {0};
    char target[64];
    int status = command_arguments("backup", argc, argv, NULL, 0, &b.to, 1, 1);

    if (status != 0)
        return status;
    snprintf(target, sizeof(target), "/-/backup?lease=%d", LEASE_S);
    status = post(&b, target, &reply);
    if (status == CTL_OK)
        status = read_head(&b, buf_slice(&reply.text));
    if (status == CTL_OK) {
        status = take_files(&b, buf_slice(&reply.text));
        if (end_lease(&b) != CTL_OK)
            status = CTL_FAILED;
    }
    buf_free(&reply.text);
    if (status != CTL_OK)
        return status;
    printf("%s: %" PRIu64 " files linked, %" PRIu64 " copied (%" PRIu64 " bytes), %" PRIu64
           " there before, %" PRIu64 " removed\n",
           b.to, b.linked, b.copied, b.copied_bytes, b.kept, b.removed);
    return command_finish_output();
}
