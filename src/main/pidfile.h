/*
 * pidfile.h - the file of -pid.
 *
 * Used by:  main and the signal thread.
 * Threads:  pidfile_write() on the main thread before others need it; pidfile_remove() on any.
 */
#ifndef MAIN_PIDFILE_H
#define MAIN_PIDFILE_H

/* Writes our process id and a line feed. A file that names a living process is left alone. 0 or
 * -errno with the reason logged. The path must stay alive. */
int pidfile_write(const char *path);

/* Removes the file if pidfile_write() wrote one; it does nothing the second time. */
void pidfile_remove(void);

#endif
