"""Whether the model hub answers, asked once and quickly: its own client tries for minutes."""

from __future__ import annotations

import functools
import http.client
import re
import ssl
import threading
import urllib.error
import urllib.request
from pathlib import Path

from uedpo.errors import InputError

PATIENCE = 3.0  # seconds
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
    answered = threading.Event()

    def ask() -> None:
        try:
            head = urllib.request.Request(constants.ENDPOINT, method="HEAD")
            with urllib.request.urlopen(head, timeout=PATIENCE):  # through a proxy, if there is one
                answered.set()
        except (urllib.error.HTTPError, ssl.SSLError):  # somebody answers
            answered.set()
        except (OSError, ValueError, http.client.HTTPException) as error:
            if isinstance(getattr(error, "reason", None), ssl.SSLError):
                answered.set()

    asking = threading.Thread(target=ask, daemon=True)  # a name that does not resolve has no timeout
    asking.start()
    asking.join(PATIENCE)
    if not answered.is_set():
        constants.HF_HUB_OFFLINE = True
    return answered.is_set()


def check_present(path: str | None, revision: str | None = None) -> None:
    """Refuse a model of the hub that is neither here nor to be had, before anything heavy is imported.

    Raises:
        InputError: how to get it.
    """
    from huggingface_hub import constants

    if path is None or not is_hub_id(path):
        return
    here = Path(constants.HF_HUB_CACHE) / f"models--{path.replace('/', '--')}" / "snapshots"
    if not here.is_dir() and not reachable():
        raise InputError(absent(path, revision))


def absent(path: str, revision: str | None) -> str:
    """What to say of a model that is not here while the hub does not answer."""
    how = how_to_get(path, revision)
    return f"model.path={path}: is not on this machine, and the hub does not answer: {how}"


def how_to_get(name: str, revision: str | None, kind: str = "model") -> str:
    """What to do where the hub does not give something that is not on this machine."""
    more = f" --revision {revision}" if revision else ""
    more += f" --repo-type {kind}" if kind != "model" else ""
    return (
        f"run `hf download {name}{more}` where there is a network, then set HF_HUB_OFFLINE=1 here; a local "
        "folder does as well"
    )
