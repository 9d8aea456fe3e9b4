"""HTTP as a stream: thousands of pipelined requests for values of every kind, and nginx in front."""

import http.client
import os
import random
import threading

import harness
from harness import read_response

# In memory and copied, in memory and held, a piece of a segment, a file of its own.
SIZES = [0, 10, 2_000, 16_384, 16_385, 20_000, 50_000, 300_000, 1_500_000]


def request(method, target, body=None):
    length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
    return b"%s %s HTTP/1.1\r\nHost: h\r\n%s\r\n%s" % (method, target, length, body or b"")


def sending(connection, data):
    """Sends in a thread, as a client that reads replies while it writes."""
    thread = threading.Thread(target=connection.send, args=(data,))
    thread.start()
    return thread


def test_pipelined_values_never_mix(shared_server):
    """Each value is a byte of its own repeated, so that a wrong byte names where it came from."""
    choose = random.Random(harness.test_seed())
    values = {b"/mix/%d" % i: bytes([i]) * SIZES[i % len(SIZES)] for i in range(3 * len(SIZES))}
    small = [key for key, value in values.items() if len(value) <= 20_000]
    with shared_server.connect() as c:
        thread = sending(c, b"".join(request(b"PUT", key, value) for key, value in values.items()))
        for key in values:
            assert read_response(c).status == 201, key
        thread.join()
        asked = [choose.choice(small) for _ in range(5_000)]
        asked += [choose.choice(list(values)) for _ in range(300)]
        thread = sending(c, b"".join(request(b"GET", key) for key in asked))
        for key in asked:
            body = read_response(c).body
            assert len(body) == len(values[key]), key
            assert body == values[key], (key, sorted(set(body)))
        thread.join()


def test_a_read_behind_a_write_sees_it(shared_server):
    sent = b""
    for n in range(300):
        body = b"%d" % n * SIZES[n % 5]
        sent += request(b"PUT", b"/seen", body) + request(b"GET", b"/seen")
        sent += request(b"DELETE", b"/seen") + request(b"GET", b"/seen")
    with shared_server.connect() as c:
        thread = sending(c, sent)
        for n in range(300):
            assert read_response(c).status == 201
            assert read_response(c).body == b"%d" % n * SIZES[n % 5]
            assert read_response(c).status == 200
            assert read_response(c).status == 404
        thread.join()


def test_through_nginx(shared_server, new_nginx):
    """proxy_pass with connections that stay: uploads, downloads, HEAD, revalidation, encoded names."""
    nginx = new_nginx()
    nginx.start(f"""
    upstream tt {{ server 127.0.0.1:{shared_server.port}; keepalive 4; }}
    server {{
        listen 127.0.0.1:{nginx.port};
        client_max_body_size 16m;
        location / {{
            proxy_pass http://tt;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}""")
    before = int(shared_server.stats()["total_connections"])
    client = http.client.HTTPConnection("127.0.0.1", nginx.port, timeout=harness.WAIT_S)

    def ask(method, target, body=None, headers=None, status=200):
        client.request(method, target, body, headers or {})
        reply = client.getresponse()
        data = reply.read()
        assert reply.status == status, (reply.status, data)
        return reply, data

    for size in SIZES:
        value = os.urandom(size)
        ask("PUT", "/through%20nginx/%D0%BA.gif", value, status=201)
        reply, data = ask("GET", "/through%20nginx/%D0%BA.gif")
        assert data == value and reply.headers["Content-Type"] == "image/gif"
        etag = reply.headers["ETag"]
        reply, _ = ask("HEAD", "/through%20nginx/%D0%BA.gif")
        assert reply.headers["Content-Length"] == str(size) and reply.headers["ETag"] == etag
        ask("GET", "/through%20nginx/%D0%BA.gif", headers={"If-None-Match": etag}, status=304)
    ask("PUT", "/through%20nginx/%D0%BA.gif", iter([b"in ", b"pieces"]), status=201)
    assert ask("GET", "/through%20nginx/%D0%BA.gif")[1] == b"in pieces"
    ask("DELETE", "/through%20nginx/%D0%BA.gif")
    ask("GET", "/through%20nginx/%D0%BA.gif", status=404)
    ask("GET", "/-/ready")
    client.close()
    # All of that over a few connections, one of which asks for these figures.
    assert int(shared_server.stats()["total_connections"]) - before <= 5
