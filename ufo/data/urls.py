"""Pictures from an address: `http(s):` and `data:` alone, with a bound on bytes and on time.

An address may come from somebody else, so nothing here reads a local file (`file:`), whatever a server
redirects to, and neither an endless answer nor a server that sends a byte a second is waited for.
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
import urllib.error
import urllib.request
from http.client import HTTPException
from urllib.parse import unquote_to_bytes, urlsplit

from ufo.data.errors import DataError

MAX_BYTES = 64 * 2**20
"""Larger pictures are refused: from the length that the server states, or when so much has come."""
TIMEOUT = 30.0
"""Seconds that a whole picture may take, from looking up the server's name to the last byte."""
CHUNK = 2**16
SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)


def is_url(text: str) -> bool:
    """Whether a text is an address and not a path, of whatever scheme: `C:\\scene.jpg` is a path."""
    return SCHEME.match(text) is not None


def shown(url: str) -> str:
    """An address as messages and results name it: short, without password, query and inline content."""
    if url[:5].lower() == "data:":
        return f"{url.partition(',')[0][:60]},..."
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:200]


def fetch(url: str, max_bytes: int = MAX_BYTES, timeout: float = TIMEOUT) -> bytes:
    """What is at an address.

    Args:
        url: `http:`, `https:` or `data:`.
        max_bytes: more are refused.
        timeout: seconds for all of it.

    Raises DataError that names the address and the reason.
    """
    try:
        scheme = urlsplit(url).scheme.lower()
    except ValueError as error:
        raise DataError(f"{url[:60]}: this is no address ({error}).") from error
    if scheme == "data":
        return _inline(url, max_bytes)
    if scheme not in ("http", "https"):
        raise DataError(
            f"{shown(url)}: pictures are read from http:, https: and data: addresses, not {scheme}:."
        )
    return _within(url, max_bytes, timeout)


def _inline(url: str, max_bytes: int) -> bytes:
    head, comma, content = url.partition(",")
    if not comma:
        raise DataError(f"{shown(url)}: a data: address holds its content behind a comma.")
    if len(content) > 4 * max_bytes:  # base64 takes 4 letters for 3 bytes, escapes 3 for one
        raise DataError(f"{shown(url)}: it holds more than the {max_bytes} bytes allowed.")
    try:
        plain = unquote_to_bytes(content)
        found = base64.b64decode(plain, validate=True) if head.lower().endswith(";base64") else plain
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{shown(url)}: its content is not base64 ({error}).") from error
    if len(found) > max_bytes:
        raise DataError(f"{shown(url)}: it holds more than the {max_bytes} bytes allowed.")
    return found


def _within(url: str, max_bytes: int, timeout: float) -> bytes:
    """Download in a thread: looking up a name and reading headers know no time limit of their own."""
    found: list[bytes | Exception] = []
    given_up = threading.Event()

    def work() -> None:
        try:
            found.append(_download(url, max_bytes, timeout, given_up))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout)
    given_up.set()
    if not found:
        raise DataError(f"{shown(url)}: no whole picture came within {timeout:g} seconds.")
    (answer,) = found
    if isinstance(answer, bytes):
        return answer
    if isinstance(answer, DataError):
        raise answer
    raise DataError(f"{shown(url)}: it can't be read ({_reason(answer)}).") from answer


def _download(url: str, max_bytes: int, timeout: float, given_up: threading.Event) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "ufo-vision"})
    content = bytearray()
    with _opener().open(request, timeout=timeout) as response:
        stated = response.headers.get("Content-Length", "")
        if stated.isdecimal() and int(stated) > max_bytes:
            raise DataError(f"{shown(url)}: it has {stated} bytes, more than the {max_bytes} allowed.")
        while chunk := response.read1(CHUNK):
            content += chunk
            if len(content) > max_bytes:
                raise DataError(f"{shown(url)}: it has more than the {max_bytes} bytes allowed.")
            if given_up.is_set():
                break
    if stated.isdecimal() and len(content) < int(stated):
        raise DataError(f"{shown(url)}: the connection ended after {len(content)} of {stated} bytes.")
    return bytes(content)


def _opener() -> urllib.request.OpenerDirector:
    """What follows redirects to http and https alone: the usual opener also knows ftp: and file:."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server says {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) if isinstance(error, (OSError, HTTPException)) and str(error) else type(error).__name__
