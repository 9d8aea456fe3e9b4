"""The founding use case with real parts: PHP pages store pictures, nginx hands them to browsers.

    form -> PHP (Memcached or Memcache) -> ttserver -> memcached_pass of nginx -> browser

The nginx configuration is the one in examples/, with only its addresses changed.
"""

import concurrent.futures
import hashlib
import re
import subprocess
import threading
import urllib.parse

import pymemcache
import pylibmc
import pytest
import requests

import harness
import pictures

CONFIGURATION = harness.ROOT / "examples" / "nginx" / "founding.conf"
PAGES = harness.ROOT / "examples" / "php" / "public"
UPLOAD_SETTINGS = ("upload_max_filesize=16M", "post_max_size=17M", "memory_limit=128M")


class Site:
    """Two ttservers, PHP and nginx, as a visitor sees them."""

    def __init__(self, servers, php, nginx):
        self.servers = servers
        self.php = php
        self.nginx = nginx
        self.url = f"http://127.0.0.1:{nginx.port}"

    def upload(self, data, name="picture", kind="application/octet-stream"):
        """Posts the form; returns the response, not following the redirect."""
        return requests.post(f"{self.url}/upload.php", files={"picture": (name, data, kind)},
                             allow_redirects=False, timeout=harness.WAIT_S)

    def store(self, data):
        """Uploads a picture that must be taken; returns its name."""
        response = self.upload(data)
        assert response.status_code == 303, (response.status_code, response.text)
        query = urllib.parse.urlparse(response.headers["Location"]).query
        return urllib.parse.parse_qs(query)["name"][0]

    def fetch(self, name):
        return requests.get(f"{self.url}/img/{name}", timeout=harness.WAIT_S)


def configuration(listen, backends, php_port, fallback):
    """The example with addresses of the test; each replaced place must be there."""
    text = CONFIGURATION.read_text()
    for old, new in [("listen 8080;", f"listen 127.0.0.1:{listen};"),
                     ("127.0.0.1:1978", f"127.0.0.1:{backends[0]}"),
                     ("127.0.0.1:1979", f"127.0.0.1:{backends[1]}"),
                     ("127.0.0.1:8081", f"127.0.0.1:{php_port}"),
                     ("/srv/img", str(fallback))]:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@pytest.fixture(params=["memcached", "memcache"])
def php_client(request):
    return request.param


@pytest.fixture
def site(new_server, new_php, new_nginx, php_client):
    servers = [new_server().start(), new_server().start()]
    php = new_php().start(PAGES, {
        "TT_SERVERS": ",".join(f"127.0.0.1:{server.port}" for server in servers),
        "TT_CLIENT": php_client}, UPLOAD_SETTINGS)
    nginx = new_nginx()
    nginx.start(configuration(nginx.port, [server.port for server in servers], php.port,
                              nginx.directory / "html"))
    return Site(servers, php, nginx)


def php_get(port, key, php_client):
    """The SHA-256 of a value as PHP's extension gives it."""
    code = {
        "memcached": '$m = new Memcached(); $m->addServer("127.0.0.1", (int)$argv[1]);',
        "memcache": '$m = new Memcache(); $m->connect("127.0.0.1", (int)$argv[1]);',
    }[php_client] + ' echo hash("sha256", $m->get($argv[2]));'
    done = subprocess.run(["php", "-r", code, "--", str(port), key], capture_output=True,
                          timeout=harness.WAIT_S, check=True)
    return done.stdout.decode()


def all_pictures():
    return [*pictures.small().items(), ("jpg", pictures.big())]


def test_uploads_come_back_identical_on_every_way(site, php_client):
    for extension, data in all_pictures():
        name = site.store(data)
        assert re.fullmatch(r"[0-9a-f]{32}\." + extension, name)
        server = site.servers[0]
        key = f"img/{name}"

        through_nginx = site.fetch(name)
        assert through_nginx.status_code == 200
        assert through_nginx.content == data
        assert through_nginx.headers["Content-Type"] == pictures.TYPES[extension]
        pictures.check(through_nginx.content)

        # nginx's key is the path without its first slash, and so is HTTP's.
        direct = requests.get(f"{server.url}/{key}", timeout=harness.WAIT_S)
        assert direct.status_code == 200
        assert direct.content == data
        assert direct.headers["Content-Type"] == pictures.TYPES[extension]
        assert requests.get(f"{server.url}//{key}", timeout=harness.WAIT_S).status_code == 404

        assert pymemcache.Client(server.address, timeout=harness.WAIT_S).get(key) == data
        assert pylibmc.Client([f"127.0.0.1:{server.port}"]).get(key) == data
        assert php_get(server.port, key, php_client) == hashlib.sha256(data).hexdigest()

        through_php = requests.get(f"{site.url}/show.php?name={name}&raw=1", timeout=harness.WAIT_S)
        assert through_php.content == data
        assert through_php.headers["Content-Type"] == pictures.TYPES[extension]


def test_pages_show_what_was_uploaded(site):
    names = [site.store(data) for data in pictures.small().values()]
    page = requests.get(f"{site.url}/index.php", timeout=harness.WAIT_S).text
    assert re.findall(r'src="/img/([^"]+)"', page) == names[::-1]
    one = requests.get(f"{site.url}/show.php?name={names[0]}", timeout=harness.WAIT_S)
    assert f'src="/img/{names[0]}"' in one.text


@pytest.mark.parametrize("php_client", ["memcached"], indirect=True)
def test_what_is_no_picture_is_refused(site):
    for data in [b"", b"<?php system($_GET['c']);", b"<html><script>alert(1)</script></html>",
                 b"GIF", pictures.small()["png"][5:]]:
        assert site.upload(data, "a.png", "image/png").status_code in (400, 415), data[:20]
    too_large = pictures.small()["bmp"] + bytes(16 * 1024 * 1024)
    assert site.upload(too_large).status_code in (400, 413)
    no_file = requests.post(f"{site.url}/upload.php", data={"picture": "x"}, timeout=harness.WAIT_S)
    assert no_file.status_code == 400
    several = requests.post(f"{site.url}/upload.php", timeout=harness.WAIT_S,
                            files=[("picture[]", ("a", b"x")), ("picture[]", ("b", b"y"))])
    assert several.status_code == 400
    for name in ["../etc/passwd", "a.php", "a%00.png", "", "a.png%0a"]:
        shown = requests.get(f"{site.url}/show.php?name={name}&raw=1", timeout=harness.WAIT_S)
        assert shown.status_code == 404, name
    page = requests.get(f"{site.url}/index.php", timeout=harness.WAIT_S).text
    assert "/img/" not in page


@pytest.mark.parametrize("php_client", ["memcached"], indirect=True)
def test_nginx_asks_only_for_names_that_can_be_keys(site):
    name = site.store(pictures.small()["gif"])
    assert requests.head(f"{site.url}/img/{name}", timeout=harness.WAIT_S).status_code == 200
    put = requests.put(f"{site.url}/img/{name}", data=b"x", timeout=harness.WAIT_S)
    assert put.status_code == 405
    assert site.fetch(f"{'a' * 64}.png").status_code == 404
    stats = [server.stats() for server in site.servers]
    for path in [f"/img/{'a' * 65}.png", f"/img/{'a' * 4000}.png", "/img/a b.png",
                 "/img/%0d%0aget.png", "/img/a.exe", "/img/.png", "/img/a/b.png"]:
        assert requests.get(site.url + path, timeout=harness.WAIT_S).status_code == 404, path
    assert [server.stats()["cmd_get"] for server in site.servers] == \
        [one["cmd_get"] for one in stats]
    assert site.fetch(name).status_code == 200


@pytest.mark.parametrize("php_client", ["memcached"], indirect=True)
def test_the_fallback_takes_over_for_misses_and_dead_servers(site):
    html = site.nginx.directory / "html"
    (html / "img").mkdir()
    (html / "img" / "old.png").write_bytes(pictures.small()["png"])
    assert site.fetch("old.png").content == pictures.small()["png"]
    assert site.fetch("none.png").status_code == 404
    (html / "missing.png").write_bytes(b"stand-in")
    assert site.fetch("none.png").content == b"stand-in"
    for server in site.servers:
        server.kill()
    assert site.fetch("old.png").content == pictures.small()["png"]
    assert site.upload(pictures.small()["png"]).status_code == 503
    for server in site.servers:
        server.start()
    assert site.fetch(site.store(pictures.small()["png"])).content == pictures.small()["png"]


@pytest.mark.tsan
def test_acknowledged_pictures_survive_a_crash_amid_uploads(site):
    """One server dies by kill -9 while forms are being posted; the pages go on with the other."""
    acknowledged = {}
    lock = threading.Lock()
    enough = threading.Event()

    def post(n):
        data = pictures.big() if n % 20 == 7 else pictures.numbered(n)
        response = site.upload(data)
        assert response.status_code in (303, 503), response.text
        if response.status_code != 303:
            return
        with lock:
            acknowledged[response.headers["Location"].split("name=")[1]] = data
            if len(acknowledged) >= 15:
                enough.set()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        posts = [pool.submit(post, n) for n in range(60)]
        assert enough.wait(harness.WAIT_S)
        site.servers[0].kill()
        for done in concurrent.futures.as_completed(posts, timeout=4 * harness.WAIT_S):
            done.result()
    assert len(acknowledged) >= 50

    site.servers[0].start()
    for name, data in acknowledged.items():
        response = site.fetch(name)
        assert response.status_code == 200, name
        assert response.content == data, name
