/*
 * ttctl_show.h - what commands on a data directory print alike: findings, keys, times.
 *
 * Used by:  ttctl_log.c, ttctl_verify.c and others.
 * Threads:  one.
 */
#ifndef TOOLS_TTCTL_SHOW_H
#define TOOLS_TTCTL_SHOW_H

#include <stdio.h>

#include "store/logstore/walk.h"

/* Room for a time: "2026-01-31T12:00:00.123Z". */
#define SHOW_TIME_MAX 40
/* Unix milliseconds, in UTC. */
const char *show_time(int64_t unix_ms, char out[SHOW_TIME_MAX]);

/* Writes the key percent-encoded. */
void show_key(FILE *to, struct slice key);

/* One line on a finding: "WORD: PATH offset N, M bytes: REASON (key K, records A to B)". */
void show_finding(FILE *to, const struct walk_finding *f);

/* Name of a kind of record. */
const char *show_kind(enum record_kind kind);

#endif
