/*
 * mime.h - the content type that a key's extension stands for.
 *
 * Used by:  session/http_value.c, for values that were stored without a type.
 * Threads:  pure.
 */
#ifndef PROTO_MIME_H
#define PROTO_MIME_H

#include "base/slice.h"

/* By what follows the last '.' of the key's last path segment, in either case;
 * "application/octet-stream" when there is none or it is not known. The slice lives for ever. */
struct slice mime_of_key(struct slice key);

#endif
