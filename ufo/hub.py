"""Whether the hub of Hugging Face can be asked at all: offline, its library tries for half a minute."""

from __future__ import annotations

import functools
import os
import socket
import threading
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

PATIENCE = 1.0  # seconds for a first connection


@functools.cache
def is_unreachable(patience: float = PATIENCE) -> bool:
    """True if no connection to the hub (or to the proxy before it) can be opened; then its cache must do.

    For `local_files_only=` of huggingface_hub. Asked once per process.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return True
    url = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    proxy = getproxies().get(url.scheme)
    if proxy and not proxy_bypass(url.hostname or ""):
        url = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    answered = threading.Event()

    def connect() -> None:
        try:
            port = url.port or (443 if url.scheme == "https" else 80)
            socket.create_connection((url.hostname or "", port), timeout=patience).close()
            answered.set()
        except (OSError, ValueError):
            pass

    # in a thread, since looking up a name knows no timeout
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(patience)
    return not answered.is_set()
