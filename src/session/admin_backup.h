/*
 * admin_backup.h - POST /-/backup, /-/backup/renew, /-/backup/end.
 *
 * Used by:  admin.c.
 * Threads:  the connection's worker; what waits for the disk on a thread of the pool.
 */
#ifndef SESSION_ADMIN_BACKUP_H
#define SESSION_ADMIN_BACKUP_H

#include "session/http_session.h"

/*
 * A backup under load: `POST /-/backup?lease=S` syncs what was written and answers 200 with lines of
 * text: "token T", then the list of store_backup_begin(). The files keep their names for S seconds
 * (1 to 3600, else 60); POST /-/backup/renew?token=T&lease=S prolongs, /-/backup/end?token=T ends
 * it; both answer 200, or 404 when the lease has ended. 503 with Retry-After when too many backups
 * are under way, or while the store does not serve writes.
 */
void admin_backup_begin(struct http_session *s, const struct http_request *r);
void admin_backup_renew(struct http_session *s, const struct http_request *r);
void admin_backup_end(struct http_session *s, const struct http_request *r);

#endif
