/*
 * held_value.h - values that leave out of memory, or out of a file, that the store keeps for them.
 *
 * Provides: held_value_take(), held_value_send(), held_value_drop(), held_file_send().
 * Used by:  the protocol sessions, for a read whose value has memory of its own or is not in memory.
 * Threads:  the connection's worker.
 *
 * Such memory lives as long as its client takes to read it, so it counts against the budget: a
 * crowd of slow readers is refused instead of held.
 */
#ifndef SESSION_HELD_VALUE_H
#define SESSION_HELD_VALUE_H

#include "session/session.h"

struct held_value;

/* Takes the hold of a result whose value is in memory (hold != NULL, file_fd == -1), and its bytes
 * from the budget. NULL when they do not fit: the result still has its hold, and the client gets
 * the protocol's busy error. */
struct held_value *held_value_take(struct session_worker *worker, struct store_get *get);

/* Sends the value; bytes and hold are given back when it is sent or the connection is gone. */
void held_value_send(struct conn *c, struct held_value *held);

/* Gives both back without sending. */
void held_value_drop(struct held_value *held);

/* Sends `bytes` of the file of a result (file_fd >= 0), whose hold is taken: it goes when they are
 * sent, or when the connection is gone. */
void held_file_send(struct conn *c, struct store_get *get, uint64_t bytes);

#endif
