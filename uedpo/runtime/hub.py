"""Whether the model hub answers, asked once and quickly: its own client tries for minutes."""

from __future__ import annotations

import functools
import re
import socket
import threading
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

PATIENCE = 4.0  # seconds
_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def is_hub_id(path: str) -> bool:
    """Whether a path can only be a name of the hub: owner/name, or one of the oldest without owner."""
    return bool(_ID.fullmatch(path)) and not Path(path).exists()


@functools.cache
def reachable() -> bool:
    """Whether the hub can be asked; if not, its client only looks at what is on this machine from now on."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if urllib.request.getproxies():  # it knows the way
        return True
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    answered = threading.Event()

    def ask() -> None:
        try:
            socket.create_connection((str(address.hostname), port), timeout=PATIENCE).close()
            answered.set()
        except OSError:
            pass

    asking = threading.Thread(target=ask, daemon=True)  # a name that does not resolve has no timeout
    asking.start()
    asking.join(PATIENCE)
    if not answered.is_set():
        constants.HF_HUB_OFFLINE = True
    return answered.is_set()


def how_to_get(name: str, revision: str | None, kind: str = "model") -> str:
    """What to do where the hub does not give something that is not on this machine."""
    more = f" --revision {revision}" if revision else ""
    more += f" --repo-type {kind}" if kind != "model" else ""
    return (
        f"run `hf download {name}{more}` where there is a network, then set HF_HUB_OFFLINE=1 here; a local "
        "folder does as well"
    )
