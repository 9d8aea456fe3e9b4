"""HTTP/1.1: exact replies by raw sockets, and the same through curl, requests and http.client."""

import http.client
import json
import re
import subprocess
import time

import pymemcache
import pytest
import requests

import harness
from harness import read_response, set_command, value_reply


def request(method, target, body=None, *headers, version="1.1"):
    """The bytes of one request."""
    lines = [f"{method} {target} HTTP/{version}", "Host: localhost", *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


def ask(server, method, target, body=None, *headers, head=False):
    """One request on a connection of its own."""
    with server.connect() as c:
        c.send(request(method, target, body, *headers))
        return read_response(c, head or method == "HEAD")


def put(server, target, body, *headers):
    response = ask(server, "PUT", target, body, *headers)
    assert response.status == 201, response
    return response


def curl(*words, stdin=None):
    done = subprocess.run(["curl", "-sS", "--max-time", str(harness.WAIT_S), *words], input=stdin,
                          capture_output=True, timeout=2 * harness.WAIT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def status_of(reply):
    return int(reply.split(b" ", 2)[1])


# ---- the verbs ----

def test_put_get_head_delete(shared_server):
    for _ in range(2):  # created, then replaced: Tokyo Tyrant says 201 to both
        created = put(shared_server, "/a/b.txt", b"hello")
        assert created.reason == "Created" and created.body == b"Created\n"
    got = ask(shared_server, "GET", "/a/b.txt")
    assert (got.status, got.reason, got.body) == (200, "OK", b"hello")
    assert got.headers["content-type"] == "text/plain"
    assert got.headers["content-length"] == "5"
    assert re.fullmatch(r'"[0-9a-f]{16,}"', got.headers["etag"])
    head = ask(shared_server, "HEAD", "/a/b.txt")
    for varying in (got.headers, head.headers):
        varying.pop("date")
    assert (head.status, head.headers) == (200, got.headers)
    gone = ask(shared_server, "DELETE", "/a/b.txt")
    assert (gone.status, gone.reason, gone.body) == (200, "OK", b"OK\n")
    for method in ("DELETE", "GET"):
        missing = ask(shared_server, method, "/a/b.txt")
        assert (missing.status, missing.reason, missing.body) == (404, "Not Found", b"Not Found\n")
    assert ask(shared_server, "HEAD", "/a/b.txt").status == 404


def test_options_and_other_methods(shared_server):
    for target in ("/anything", "*"):
        reply = ask(shared_server, "OPTIONS", target)
        assert reply.status == 200
        assert {word.strip() for word in reply.headers["allow"].split(",")} >= \
            {"GET", "HEAD", "PUT", "DELETE", "OPTIONS"}
    for method in ("POST", "PATCH", "MKCOL", "TRACE", "BREW"):
        reply = ask(shared_server, method, "/x", b"set k 0 0 1\r\nx\r\n")
        assert reply.status in (405, 501), (method, reply)


def test_a_refused_body_is_not_read_as_commands(shared_server):
    smuggled = (b"set smuggled 0 0 1\r\nx\r\n"
                b"PUT /smuggled HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx")
    for sent in (request("POST", "/x", smuggled),
                 b"POST /x HTTP/1.1\r\nHost: h\r\n\r\n" + smuggled[:22],
                 b"PUT /x HTTP/9.9\r\n\r\n" + smuggled,
                 b"get / HTTP/1.1\r\n"):
        with shared_server.connect() as c:
            c.send(sent)
            c.end_of_input()
            c.rest()
    with shared_server.connect() as c:
        c.ask(b"get smuggled\r\n", b"END\r\n")


@pytest.mark.tsan
def test_values_of_every_size(shared_server):
    for size in [0, 1, 1000, 16383, 16384, 16385, 65536, 1 << 20, (1 << 20) + 1, 5_000_000,
                 64 << 20]:
        body = (b"%d/" % size * (size // 3 + 1))[:size]
        put(shared_server, "/size", body)
        got = ask(shared_server, "GET", "/size")
        assert got.status == 200 and got.body == body, size
        assert ask(shared_server, "HEAD", "/size").headers["content-length"] == str(size)
    assert ask(shared_server, "DELETE", "/size").status == 200


def test_a_value_over_the_limit_is_413(new_server):
    server = new_server("--max-value", "1m").start()
    put(server, "/k", b"x" * (1 << 20))
    assert ask(server, "PUT", "/k", b"y" * ((1 << 20) + 1)).status == 413
    with server.connect() as c:  # announced only: refused before the body
        c.send(b"PUT /k HTTP/1.1\r\nHost: h\r\nContent-Length: 2147483647\r\n\r\n")
        assert read_response(c).status == 413
        assert c.rest() == b""
    with server.connect() as c:  # not announced
        c.send(b"PUT /k HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"40000\r\n" + b"z" * 0x40000 + b"\r\n"
        try:
            c.send(chunk * 5)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert read_response(c).status == 413
    assert ask(server, "GET", "/k").body == b"x" * (1 << 20)


# ---- connections ----

@pytest.mark.tsan
def test_keep_alive_and_pipelining(shared_server):
    with shared_server.connect() as c:
        sent = b""
        for n in range(200):
            sent += request("PUT", f"/p{n % 10}", b"%d" % n) + request("GET", f"/p{n % 10}")
            sent += request("HEAD", f"/p{n % 10}") + request("GET", "/none")
        c.send(sent)
        for n in range(200):
            assert read_response(c).status == 201
            assert read_response(c).body == b"%d" % n
            assert read_response(c, head=True).headers["content-length"] == str(len(str(n)))
            assert read_response(c).status == 404


def test_closing(shared_server):
    put(shared_server, "/k", b"x")
    with shared_server.connect() as c:
        c.send(request("GET", "/k", None, "Connection: close") + request("GET", "/k"))
        reply = read_response(c)
        assert reply.headers["connection"] == "close" and c.rest() == b""
    with shared_server.connect() as c:
        c.send(b"GET /k HTTP/1.0\r\n\r\n")
        assert read_response(c).body == b"x" and c.rest() == b""
    with shared_server.connect() as c:
        for _ in range(3):
            c.send(b"GET /k HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            reply = read_response(c)
            assert reply.body == b"x" and reply.headers["connection"].lower() == "keep-alive"
    with shared_server.connect() as c:  # the client has said all it will say
        c.send(request("GET", "/k"))
        c.end_of_input()
        assert read_response(c).body == b"x" and c.rest() == b""


def test_cut_anywhere(shared_server):
    sent = (request("PUT", "/cut%2Fa", b"0123456789", "Content-Type: text/x-cut") +
            b"PUT /cut/b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: t\r\n\r\n" + request("GET", "/cut/a") +
            request("GET", "/cut/b"))

    def check(c):
        assert read_response(c).status == 201
        assert read_response(c).status == 201
        first = read_response(c)
        assert (first.body, first.headers["content-type"]) == (b"0123456789", "text/x-cut")
        assert read_response(c).body == b"abcde"

    with shared_server.connect() as c:
        for cut in range(len(sent) + 1):
            c.send(sent[:cut])
            c.send(sent[cut:])
            check(c)
    for cut in range(1, 10):
        with shared_server.connect() as c:
            c.send(sent[:cut])
            c.send(sent[cut:])
            check(c)
    with shared_server.connect() as c:
        for i in range(len(sent)):
            c.send(sent[i:i + 1])
        check(c)


def test_chunked_bodies(shared_server):
    pieces = [b"a", b"b" * 15, b"c" * 70_000, b"d" * 2_000_000]
    body = b"".join(b"%X\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    with shared_server.connect() as c:
        c.send(b"PUT /chunked HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
        assert read_response(c).status == 201
        c.send(request("GET", "/chunked"))
        assert read_response(c).body == b"".join(pieces)


def test_100_continue(shared_server):
    head = b"PUT /continue HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    with shared_server.connect() as c:
        c.send(head)
        assert c.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        c.send(b"hello")
        assert read_response(c).status == 201
    with shared_server.connect() as c:  # a refusal comes instead of 100
        c.send(head.replace(b"Content-Length: 5", b"Content-Length: 999999999"))
        assert read_response(c).status == 413
    with shared_server.connect() as c:
        c.send(head.replace(b"100-continue", b"something-else"))
        assert read_response(c).status == 417


# ---- names ----

KEYS = [  # target, key
    ("/plain", b"plain"),
    ("/a/b//c", b"a/b//c"),
    ("//double", b"/double"),
    ("/per%20cent", b"per cent"),
    ("/%2Fslash%2f", b"/slash/"),
    ("/plus+plus", b"plus+plus"),
    ("/%2b", b"+"),
    ("/query?a=b&c", b"query"),
    ("/%3Fmark", b"?mark"),
    ("/gr%C3%BC%c3%9f", "gr\u00fc\u00df".encode()),
    ("/raw\xc3\xbc", "raw\u00fc".encode()),
    ("/nul%00byte", b"nul\0byte"),
    ("/line%0D%0Aend", b"line\r\nend"),
    ("/%ff%fe", b"\xff\xfe"),
    ("/..%2F../dots/./", b"../../dots/./"),
    ("/percent%25", b"percent%"),
    ("/" + "l" * 8000, b"l" * 8000),
    ("/" + "%6C" * 20000, b"l" * 20000),
    ("http://localhost/absolute", b"absolute"),
]


@pytest.mark.parametrize("target, key", KEYS, ids=[target[:30] for target, _ in KEYS])
def test_keys(shared_server, target, key):
    value = b"value of " + key[:100]
    put(shared_server, target, value)
    assert ask(shared_server, "GET", target).body == value
    every_byte = "/" + "".join(f"%{byte:02X}" for byte in key)
    assert ask(shared_server, "GET", every_byte).body == value
    if len(key) <= 250 and not set(key) & set(b" \r\n"):
        with shared_server.connect() as c:
            assert harness.mc_get(c, key)[0] == value
    listed = ask(shared_server, "GET", "/-/keys?limit=10000").body.split(b"\n")
    assert http_encoded(key) in listed
    assert ask(shared_server, "DELETE", every_byte).status == 200


def http_encoded(key):
    return b"".join(b"%c" % c if chr(c).isalnum() and c < 128 or c in b"-._~/" else b"%%%02X" % c
                    for c in key)


@pytest.mark.parametrize("target", ["/bad%", "/bad%1", "/bad%zz", "/bad%2", "/%%20"])
def test_bad_encodings_are_refused(shared_server, target):
    assert ask(shared_server, "PUT", target, b"x").status == 400
    assert ask(shared_server, "GET", target).status == 400


def test_keys_too_long_are_414(shared_server):
    assert ask(shared_server, "PUT", "/" + "k" * 65536, b"x").status == 201
    assert ask(shared_server, "GET", "/" + "k" * 65536).body == b"x"
    assert ask(shared_server, "DELETE", "/" + "k" * 65536).status == 200
    assert ask(shared_server, "PUT", "/" + "k" * 65537, b"x").status == 414
    with shared_server.connect() as c:
        try:
            c.send(b"GET /" + b"k" * 3_000_000)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert c.rest().startswith(b"HTTP/1.1 414 ")


# ---- both protocols ----

@pytest.mark.tsan
def test_the_same_records_through_both_protocols(shared_server):
    client = pymemcache.Client(shared_server.address, timeout=harness.WAIT_S)
    put(shared_server, "/both", b"by http")
    assert client.get("both") == b"by http"
    client.set("both", b"by memcached", flags=77, noreply=False)
    assert ask(shared_server, "GET", "/both").body == b"by memcached"
    client.set("n", b"41", noreply=False)
    client.incr("n", 1)
    got = ask(shared_server, "GET", "/n")
    assert got.body == b"42" and ask(shared_server, "HEAD", "/n").headers["content-length"] == "2"
    assert ask(shared_server, "DELETE", "/both").status == 200
    assert client.get("both") is None
    client.set("short", b"x", expire=1, noreply=False)
    harness.eventually(lambda: ask(shared_server, "GET", "/short").status == 404, "expiry", 10)
    client.quit()


def test_flags_are_zero_after_put(shared_server):
    put(shared_server, "/flags", b"x")
    with shared_server.connect() as c:
        c.ask(b"get flags\r\n", value_reply("flags", b"x", 0) + b"END\r\n")


def test_content_types(shared_server):
    put(shared_server, "/stored.png", b"x", "Content-Type: application/x-mine; charset=utf-8")
    assert ask(shared_server, "GET", "/stored.png").headers["content-type"] == \
        "application/x-mine; charset=utf-8"
    put(shared_server, "/stored.png", b"x")
    assert ask(shared_server, "GET", "/stored.png").headers["content-type"] == "image/png"
    with shared_server.connect() as c:
        for key, kind in [("a.jpg", "image/jpeg"), ("a.JPEG", "image/jpeg"),
                          ("x/y.png", "image/png"), ("a.gif", "image/gif"),
                          ("a.webp", "image/webp"), ("a.svg", "image/svg+xml"),
                          ("a.bmp", "image/bmp"), ("a.html", "text/html"),
                          ("a.json", "application/json"), ("none", "application/octet-stream"),
                          ("a.", "application/octet-stream"),
                          ("a.unheardof", "application/octet-stream"),
                          ("dir.png/name", "application/octet-stream")]:
            c.ask(set_command(key, b"x"), b"STORED\r\n")
            got = ask(shared_server, "GET", f"/{key}")
            assert got.headers["content-type"].split(";")[0] == kind, key


def test_a_content_type_cannot_break_out_of_its_line(shared_server):
    with shared_server.connect() as c:
        c.send(b"PUT /evil HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n"
               b"Content-Type: a/b\x01c\r\n\r\nx")
        assert read_response(c).status == 400
    assert ask(shared_server, "PUT", "/evil", b"x", "Content-Type: " + "t" * 5000).status == 400
    assert ask(shared_server, "GET", "/evil").status == 404


def test_stored_pages_can_do_nothing(shared_server):
    put(shared_server, "/evil.html", b"<script>alert(1)</script>")
    headers = ask(shared_server, "GET", "/evil.html").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in headers["content-security-policy"]


def test_entity_tags_and_dates(shared_server):
    put(shared_server, "/tag", b"one")
    first = ask(shared_server, "GET", "/tag").headers
    same = ask(shared_server, "GET", "/tag", None, f"If-None-Match: {first['etag']}")
    assert same.status == 304 and same.body == b"" and same.headers["etag"] == first["etag"]
    for tags in (f'"x", W/{first["etag"]}', "*"):
        assert ask(shared_server, "GET", "/tag", None, f"If-None-Match: {tags}").status == 304
    since = f"If-Modified-Since: {first['last-modified']}"
    assert ask(shared_server, "GET", "/tag", None, since).status == 304
    assert ask(shared_server, "HEAD", "/tag", None, since).status == 304
    put(shared_server, "/tag", b"one")
    other = ask(shared_server, "GET", "/tag", None, f"If-None-Match: {first['etag']}")
    assert other.status == 200 and other.headers["etag"] != first["etag"]
    with shared_server.connect() as c:
        c.ask(b"touch tag 1000\r\n", b"TOUCHED\r\n")
    assert ask(shared_server, "GET", "/tag").headers["etag"] == other.headers["etag"]


# ---- what cannot be trusted is refused and closed ----

REFUSED = {
    "two lengths": b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    "a list of lengths": b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1, 2\r\n\r\nx",
    "length and chunked": b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n"
                          b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": b"PUT /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"
                          b"Content-Length: 1\r\n\r\n0\r\n\r\n",
    "negative length": b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
    "signed length": b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\nx",
    "length no number": b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1x\r\n\r\nx",
    "length beyond 2^64": b"PUT /x HTTP/1.1\r\nHost: h\r\n"
                          b"Content-Length: 18446744073709551617\r\n\r\nx",
    "unknown coding": b"PUT /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
                      b"0\r\n\r\n",
    "chunked twice": b"PUT /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"
                     b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad chunk size": b"PUT /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "chunk size beyond 2^64": b"PUT /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
                              b"10000000000000001\r\nx",
    "chunk without its end": b"PUT /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
                             b"1\r\nxy\r\n0\r\n\r\n",
    "NUL in the target": b"GET /a\0b HTTP/1.1\r\nHost: h\r\n\r\n",
    "NUL in a header": b"GET /a HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n",
    "space in the target": b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n",
    "no version": b"GET /a\r\n\r\n",
    "unknown version": b"GET /a HTTP/3.7\r\nHost: h\r\n\r\n",
    "no host": b"GET /a HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "line feeds alone": b"GET /a HTTP/1.1\nHost: h\n\n",
    "folded header": b"GET /a HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n",
    "space before the colon": b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length : 1\r\n\r\nx",
    "headers without end": b"GET /a HTTP/1.1\r\nHost: h\r\n" + b"X-Long: " + b"x" * 100_000,
    "headers without number": b"GET /a HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 30_000 + b"\r\n",
    "no HTTP at all": b"HELLO WORLD\r\n\r\n",
}


@pytest.mark.parametrize("sent", REFUSED.values(), ids=REFUSED.keys())
def test_untrusted_streams_are_refused_and_closed(shared_server, sent):
    with shared_server.connect() as c:
        c.send(sent)
        c.send(request("PUT", "/after-refusal", b"x"))
        reply = c.rest()
    assert 400 <= status_of(reply) < 600, reply[:200]
    assert reply.count(b"HTTP/1.1 ") == 1, reply
    assert ask(shared_server, "GET", "/after-refusal").status == 404
    assert ask(shared_server, "GET", "/x").status == 404


def test_two_lengths_and_length_with_chunked_are_400(shared_server):
    for name in ("two lengths", "length and chunked", "chunked and length"):
        with shared_server.connect() as c:
            c.send(REFUSED[name])
            assert read_response(c).status == 400
            assert c.rest() == b""


def test_an_announced_huge_length_is_413(shared_server):
    with shared_server.connect() as c:
        c.send(b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2147483647\r\n\r\n")
        assert read_response(c).status == 413
        assert c.rest() == b""


# ---- the server's own pages ----

def test_live_and_ready(shared_server):
    for page in ("live", "ready", "ready?for=write"):
        reply = ask(shared_server, "GET", f"/-/{page}")
        assert reply.status == 200 and reply.headers["cache-control"] == "no-store"
        assert ask(shared_server, "HEAD", f"/-/{page}").status == 200
    state = json.loads(ask(shared_server, "GET", "/-/ready").body)
    assert state["ready"] is True and state["state"] == "serving"


def test_unknown_own_pages_are_404_and_cannot_be_written(shared_server):
    for page in ("x", "", "live/x", "readyz", "%6cive2"):
        assert ask(shared_server, "GET", f"/-/{page}").status == 404, page
        assert ask(shared_server, "PUT", f"/-/{page}", b"x").status in (404, 405), page
    assert ask(shared_server, "PUT", "/-/live", b"x").status == 405
    assert ask(shared_server, "DELETE", "/-/ready").status == 405
    assert ask(shared_server, "PUT", "/%2D/live", b"x").status in (404, 405)


@pytest.mark.tsan
def test_metrics_are_those_of_prometheus(shared_server):
    def sample(name):
        text = ask(shared_server, "GET", "/-/metrics").body.decode()
        return float(re.search(rf"^ttserver_{name} (\S+)$", text, re.M).group(1))

    reply = ask(shared_server, "GET", "/-/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert reply.body.endswith(b"\n")
    seen = set()
    for line in reply.body.decode().splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert name not in seen and kind in ("counter", "gauge")
            seen.add(name)
        elif not line.startswith("# HELP "):
            match = re.fullmatch(r'([a-z0-9_]+)(\{[^{}]*\})? -?[0-9.]+', line)
            assert match and match.group(1) in seen, line
    put(shared_server, "/m", b"x")
    hits, sets = sample("get_hits"), sample("cmd_set")
    assert ask(shared_server, "GET", "/m").status == 200
    put(shared_server, "/m", b"x")
    assert sample("get_hits") == hits + 1 and sample("cmd_set") == sets + 1
    # One table feeds both.
    assert sample("cmd_set") == int(shared_server.stats()["cmd_set"])


@pytest.mark.tsan
def test_pages_of_keys(shared_server):
    names = [f"list/{n:04d}" for n in range(250)]
    with shared_server.connect() as c:
        for name in names:
            c.send(set_command(name, b"x", noreply=True))
        c.send(b"version\r\n")
        c.line()
    found, after = [], ""
    while True:
        page = ask(shared_server, "GET", f"/-/keys?prefix=list/&limit=100&after={after}"
                   if after else "/-/keys?prefix=list/&limit=100")
        assert page.status == 200
        found += page.body.decode().split()
        if page.headers.get("x-tt-more") != "1":
            break
        after = found[-1]
    assert found == names
    assert ask(shared_server, "GET", "/-/keys?limit=0").status == 400
    assert ask(shared_server, "GET", "/-/keys?prefix=%zz").status == 400


# ---- ordinary clients ----

def test_curl(shared_server, tmp_path):
    data = tmp_path / "data"
    data.write_bytes(bytes(range(256)) * 40_000)
    url = f"{shared_server.url}/curl%20key"
    assert curl("-T", str(data), url) == b"Created\n"
    assert curl(url) == data.read_bytes()
    assert curl("-T", "-", url, stdin=b"from a pipe, chunked") == b"Created\n"
    assert curl(url) == b"from a pipe, chunked"
    assert b"HTTP/1.1 200 OK" in curl("-I", url)
    assert curl("-X", "DELETE", url) == b"OK\n"
    assert curl("-o", "/dev/null", "-w", "%{http_code}", url) == b"404"


def test_requests(shared_server):
    with requests.Session() as session:
        url = f"{shared_server.url}/requests"
        assert session.put(url, data=b"x" * 100_000, timeout=harness.WAIT_S).status_code == 201
        got = session.get(url, timeout=harness.WAIT_S)
        assert got.content == b"x" * 100_000
        assert session.put(url, data=iter([b"a", b"bc"]), timeout=harness.WAIT_S).status_code == 201
        assert session.get(url, timeout=harness.WAIT_S).text == "abc"
        assert session.delete(url, timeout=harness.WAIT_S).text == "OK\n"


@pytest.mark.tsan
def test_http_client_keeps_one_connection(shared_server):
    before = int(shared_server.stats()["total_connections"])
    connection = http.client.HTTPConnection("127.0.0.1", shared_server.port, timeout=harness.WAIT_S)
    for n in range(50):
        connection.request("PUT", "/client", body=b"%d" % n)
        assert connection.getresponse().read() == b"Created\n"
        connection.request("GET", "/client")
        assert connection.getresponse().read() == b"%d" % n
    connection.close()
    assert int(shared_server.stats()["total_connections"]) == before + 2


def test_date_is_now(shared_server):
    date = ask(shared_server, "GET", "/-/live").headers["date"]
    sent = time.mktime(time.strptime(date, "%a, %d %b %Y %H:%M:%S GMT")) - time.timezone
    assert abs(sent - time.time()) < 10
