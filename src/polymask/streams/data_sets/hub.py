"""The hub of Hugging Face: whether it can be reached, found out in a second or two instead of by retries."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

TIMEOUT = 1.5
"""Seconds that the hub, or the way to it, has to answer."""


def endpoint() -> str:
    """The hub's address, as its own library reads it."""
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


def hub_answers(timeout: float = TIMEOUT) -> bool:
    """Whether a connection to the hub, or to the proxy that leads there, comes about in time."""
    scheme = urlsplit(endpoint()).scheme
    way = urlsplit(getproxies().get(scheme) or endpoint())
    port = way.port or (80 if way.scheme == "http" else 443)
    found: list[bool] = []

    def ask() -> None:
        try:
            with socket.create_connection((way.hostname or "", port), timeout):
                found.append(True)
        except OSError:
            found.append(False)

    # Looking up a name has no limit of its own, so what waits for it is a thread that nobody waits for.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(timeout)
    return found == [True]


@contextmanager
def offline(datasets: Any) -> Iterator[None]:
    """For a while the hub's libraries look into their caches alone, and retry nothing."""
    from huggingface_hub import constants

    was = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = was
