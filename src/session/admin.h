/*
 * admin.h - what stands under /-/ : live, ready, metrics, keys.
 *
 * Used by:  http_session.c, for keys that begin with "-/".
 * Threads:  the connection's worker; a listing of keys is made on a thread of the pool.
 */
#ifndef SESSION_ADMIN_H
#define SESSION_ADMIN_H

#include "session/http_session.h"

/* Answers the path "/-/NAME", 404 for a name that is not ours. The request's body is dealt with
 * already. */
void admin_request(struct http_session *s, struct slice name, const struct http_request *r);

#endif
