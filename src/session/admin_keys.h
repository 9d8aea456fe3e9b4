/*
 * admin_keys.h - GET /-/keys.
 *
 * Used by:  admin.c.
 * Threads:  the connection's worker; the listing itself on a thread of the pool.
 */
#ifndef SESSION_ADMIN_KEYS_H
#define SESSION_ADMIN_KEYS_H

#include "session/http_session.h"

/*
 * Answers /-/keys?prefix=P&after=K&limit=N with a page of keys: text/plain, one key a line,
 * percent-encoded, in bytewise order. `limit` is 1 to 10000, else 1000. `after`, where it is given,
 * is a key (of an earlier page the last line, as it stands there): the page begins behind it.
 * "X-TT-More: 1" says that there may be more; an empty page is always the last. A page also ends
 * after about a megabyte.
 */
void admin_keys(struct http_session *s, const struct http_request *r);

#endif
