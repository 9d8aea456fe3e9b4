/*
 * ttctl_upload.c - see ttctl_upload.h.
 */
#include "tools/ttctl_upload.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <curl/curl.h>

/* A wait ends after this long at the latest, to look at the handles' own limits. */
#define POLL_MS 1000

struct upload {
    CURL *curl;
    struct uploader *uploader;
    bool busy;
    struct buf body;
    size_t sent;
    uint64_t number;
    char *url;
    char error[CURL_ERROR_SIZE];
};

struct uploader {
    const struct client *client;
    CURLM *multi;
    upload_done *done;
    void *arg;
    unsigned slots;
    unsigned busy;
    struct upload uploads[];
};

static size_t give(char *room, size_t one, size_t count, void *arg)
{
    struct upload *u = arg;
    size_t left = u->body.len - u->sent;
    size_t len = left < one * count ? left : one * count;

    if (len > 0)
        memcpy(room, u->body.data + u->sent, len);
    u->sent += len;
    return len;
}

/* The text of a reply says no more than its status. */
static size_t drop(char *data, size_t one, size_t len, void *arg)
{
    (void)data;
    (void)arg;
    return one * len;
}

int uploader_open(const struct client *client, unsigned slots, upload_done *done, void *arg,
                  struct uploader **out)
{
    struct uploader *u = calloc(1, sizeof(*u) + slots * sizeof(u->uploads[0]));

    if (u == NULL)
        return -ENOMEM;
    u->client = client;
    u->slots = slots;
    u->done = done;
    u->arg = arg;
    u->multi = curl_multi_init();
    for (unsigned i = 0; i < slots; i++)
        u->uploads[i].curl = u->multi == NULL ? NULL : curl_easy_init();
    for (unsigned i = 0; i < slots; i++) {
        if (u->uploads[i].curl == NULL) {
            uploader_close(u);
            return -ENOMEM;
        }
    }
    curl_multi_setopt(u->multi, CURLMOPT_MAX_HOST_CONNECTIONS, (long)slots);
    *out = u;
    return 0;
}

static void end_upload(struct upload *up)
{
    curl_multi_remove_handle(up->uploader->multi, up->curl);
    buf_free(&up->body);
    free(up->url);
    up->url = NULL;
    up->busy = false;
    up->uploader->busy--;
}

/* Takes what has ended. */
static void take_ended(struct uploader *u)
{
    CURLMsg *m;
    int left;

    while ((m = curl_multi_info_read(u->multi, &left)) != NULL) {
        struct upload *up;
        long status = 0;
        CURLcode code;

        if (m->msg != CURLMSG_DONE)
            continue;
        code = m->data.result;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &up);
        curl_easy_getinfo(m->easy_handle, CURLINFO_RESPONSE_CODE, &status);
        if (code != CURLE_OK && !(code == CURLE_SEND_ERROR && status >= 400))
            status = 0;
        u->done(up->number, status, up->error[0] != '\0' ? up->error : curl_easy_strerror(code),
                u->arg);
        end_upload(up);
    }
}

/* Works until no more than `most` are under way. */
static int work(struct uploader *u, unsigned most, const char **message)
{
    int running;

    for (;;) {
        CURLMcode code = curl_multi_perform(u->multi, &running);

        if (code == CURLM_OK)
            take_ended(u);
        if (code == CURLM_OK && u->busy > most)
            code = curl_multi_poll(u->multi, NULL, 0, POLL_MS, NULL);
        else if (code == CURLM_OK)
            return 0;
        if (code != CURLM_OK) {
            *message = curl_multi_strerror(code);
            return -1;
        }
    }
}

int uploader_put(struct uploader *u, struct slice target, struct buf *body, uint64_t number,
                 const char **message)
{
    struct upload *up = u->uploads;

    if (u->busy == u->slots && work(u, u->slots - 1, message) != 0)
        return -1;
    while (up->busy)
        up++;
    up->url = client_url(u->client, target);
    if (up->url == NULL) {
        *message = "out of memory";
        return -1;
    }
    up->uploader = u;
    up->busy = true;
    up->number = number;
    up->sent = 0;
    up->body = *body;
    *body = (struct buf){0};
    u->busy++;
    client_prepare(u->client, up->curl, up->error);
    curl_easy_setopt(up->curl, CURLOPT_PRIVATE, up);
    curl_easy_setopt(up->curl, CURLOPT_URL, up->url);
    curl_easy_setopt(up->curl, CURLOPT_UPLOAD, 1L);
    curl_easy_setopt(up->curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)up->body.len);
    curl_easy_setopt(up->curl, CURLOPT_READFUNCTION, give);
    curl_easy_setopt(up->curl, CURLOPT_READDATA, up);
    curl_easy_setopt(up->curl, CURLOPT_WRITEFUNCTION, drop);
    curl_multi_add_handle(u->multi, up->curl);
    return work(u, u->slots, message);
}

int uploader_wait(struct uploader *u, const char **message)
{
    return work(u, 0, message);
}

void uploader_close(struct uploader *u)
{
    for (unsigned i = 0; i < u->slots; i++) {
        if (u->uploads[i].busy)
            end_upload(&u->uploads[i]);
        curl_easy_cleanup(u->uploads[i].curl);
    }
    curl_multi_cleanup(u->multi);
    free(u);
}
