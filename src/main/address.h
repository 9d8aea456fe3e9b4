/*
 * address.h - the TCP address that the server is asked to listen on: what it resolves to, and
 * whether it is free.
 *
 * Provides: address_resolve(), address_is_loopback(), address_probe(), address_text().
 * Used by:  main, before the store is opened: a taken port shall be known before a long recovery.
 * Threads:  the main thread.
 */
#ifndef MAIN_ADDRESS_H
#define MAIN_ADDRESS_H

#include <netdb.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* "[" + an IPv6 address with its scope + "]:65535" + NUL fits. */
#define ADDRESS_TEXT_MAX 300

/* All addresses of the host ("*": every address of the machine), for freeaddrinfo(). 0, or -1 with
 * the reason logged. */
int address_resolve(const char *host, uint16_t port, struct addrinfo **out);

/* True if every address can be reached from this machine only. */
bool address_is_loopback(const struct addrinfo *list);

/* Tries to bind each address, and lets go again. 0, or -errno of the first that fails; addresses
 * that this machine does not have count only if there is no other. A socket
 * that another server is still about to listen on is not seen: net_open() looks once more. */
int address_probe(const struct addrinfo *list);

/* The first port above `port` that address_probe() finds free within some hundred; 0: none. */
uint16_t address_next_free(const char *host, uint16_t port);

/* "HOST:PORT", with brackets around an IPv6 address. */
void address_text(const char *host, uint16_t port, char *out, size_t room);

/* The host as a client on this machine reaches it: 127.0.0.1 for * and 0.0.0.0, ::1 for ::, else
 * the host itself. */
const char *address_for_clients(const char *host);

#endif
