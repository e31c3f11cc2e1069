"""Pictures from addresses: the same as from a file; nothing local, nothing endless."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ufo.data import urls
from ufo.data.errors import DataError


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        name = self.path.partition("?")[0]
        if name in ("/file", "/ftp", "/again"):
            where = {"/file": "file:///etc/hostname", "/ftp": "ftp://127.0.0.1/x", "/again": "/good"}[name]
            self.send_response(302)
            self.send_header("Location", where)
            self.end_headers()
        elif name in ("/good", "/cut", "/large"):
            self.send_response(200)
            self.send_header("Content-Length", {"/good": "4", "/cut": "9", "/large": "999999"}[name])
            self.end_headers()
            self.wfile.write(b"good")
        elif name in ("/endless", "/slow"):
            self.send_response(200)
            self.end_headers()
            try:
                for _ in range(10_000):
                    self.wfile.write(b"x" * (1000 if name == "/endless" else 1))
                    time.sleep(0.0 if name == "/endless" else 0.05)
            except OSError:
                pass
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


def test_what_a_server_sends(server):
    assert urls.fetch(f"{server}/good") == b"good"
    assert urls.fetch(f"{server}/again") == b"good"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/none", "404"),
        ("/file", "file"),
        ("/ftp", "ftp"),
        ("/cut", "4 of 9 bytes"),
        ("/large", "999999 bytes, more than"),
        ("/endless", "more than the 5000 bytes"),
    ],
)
def test_what_is_refused(server, path, words):
    with pytest.raises(DataError, match=words) as caught:
        urls.fetch(f"{server}{path}?token=secret", max_bytes=5000)
    assert path in str(caught.value) and "secret" not in str(caught.value)


def test_a_slow_server_is_given_up(server):
    start = time.monotonic()
    with pytest.raises(DataError, match=r"within 0\.5 seconds"):
        urls.fetch(f"{server}/slow", timeout=0.5)
    assert time.monotonic() - start < 3


def test_inline_content():
    assert urls.fetch("data:image/png;base64,Z29vZA==") == b"good"
    assert urls.fetch("data:,a%20b") == b"a b"
    for url, words in (("data:image/png;base64,###", "base64"), ("data:image/png", "comma")):
        with pytest.raises(DataError, match=words):
            urls.fetch(url)
    with pytest.raises(DataError, match="more than the 3 bytes"):
        urls.fetch("data:,good", max_bytes=3)


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "FILE:///etc/hostname", "ftp://host/x.png", "s3://b/x.png"]
)
def test_other_addresses_are_no_paths_either(url):
    assert urls.is_url(url)
    with pytest.raises(DataError, match="http:, https: and data:"):
        urls.fetch(url)


@pytest.mark.parametrize("path", ["scene.jpg", "/tmp/a:b.png", "C:\\scene.jpg", "http/scene.jpg"])
def test_paths_are_no_addresses(path):
    assert not urls.is_url(path)
