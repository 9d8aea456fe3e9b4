/*
 * ttctl_upload.h - many small PUTs beside each other, so that one sync of the server covers many.
 *
 * Used by:  ttctl load.
 * Threads:  one.
 */
#ifndef TOOLS_TTCTL_UPLOAD_H
#define TOOLS_TTCTL_UPLOAD_H

#include "tools/ttctl_client.h"

struct uploader;

/* What became of one. status: of HTTP, 0: none, and `message` says why. */
typedef void upload_done(uint64_t number, long status, const char *message, void *arg);

/* At most `slots` at a time. 0 or -ENOMEM. */
int uploader_open(const struct client *client, unsigned slots, upload_done *done, void *arg,
                  struct uploader **out);

/* Sends the body; takes over its memory. Waits for a slot, and calls done() meanwhile. 0 or -1:
 * message. */
int uploader_put(struct uploader *u, struct slice target, struct buf *body, uint64_t number,
                 const char **message);

/* Waits until all is answered. 0 or -1. */
int uploader_wait(struct uploader *u, const char **message);

void uploader_close(struct uploader *u);

#endif
