/*
 * status.c - what a failed spool means to a client.
 *
 * Provides: session_status_of_errno().
 * Used by:  the protocol sessions.
 * Threads:  pure.
 */
#include <errno.h>

#include "session/session.h"

enum store_status session_status_of_errno(int rc)
{
    switch (rc) {
    case 0: return STORE_OK;
    case -ENOMEM:
    /* Descriptors are short as memory is: other clients hold them, later there may be some. */
    case -EMFILE:
    case -ENFILE: return STORE_NO_MEMORY;
    case -ENOSPC:
    case -EDQUOT: return STORE_NO_SPACE;
    case -EFBIG: return STORE_TOO_LARGE;
    case -EROFS: return STORE_READ_ONLY;
    default: return STORE_IO_ERROR;
    }
}
