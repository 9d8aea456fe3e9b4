"""Memory of idle connections: resident size of the server before and after it holds many."""

import resource
import socket

from servers import rss_bytes

WANTED = 10_000
ASK = b"get idle\r\n"
ANSWER = b"END\r\n"
# What a process needs beside the connections; the server reserves some too.
RESERVE = 600


def possible_connections():
    """As many as the limit of open files allows, WANTED at most."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(WANTED, hard - RESERVE)


def ask(connection):
    connection.sendall(ASK)
    got = b""
    while len(got) < len(ANSWER):
        piece = connection.recv(64)
        if not piece:
            raise RuntimeError("the server closed an idle connection")
        got += piece
    if got != ANSWER:
        raise RuntimeError(f"unexpected answer on an idle connection: {got!r}")


def measure(server, count):
    """Bytes for each connection: just opened, and after one request on each."""
    pid = server.process.pid
    connections = []
    try:
        with socket.create_connection(("127.0.0.1", server.port)) as first:
            ask(first)  # what the server allocates once is not the connections'
            before = rss_bytes(pid)
            for _ in range(count):
                connections.append(socket.create_connection(("127.0.0.1", server.port), 10))
            ask(connections[-1])  # the last one is served: all are accepted
            opened = rss_bytes(pid)
            for connection in connections:
                ask(connection)
            asked = rss_bytes(pid)
    finally:
        for connection in connections:
            connection.close()
    return (opened - before) / count, (asked - before) / count
