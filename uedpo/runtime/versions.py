"""Which code ran: the commit of the checkout, and the versions of what else decides the bits of a run."""

from __future__ import annotations

import functools
import platform
import subprocess
from pathlib import Path

import uedpo


@functools.cache
def code_version() -> str | None:
    """Commit of this checkout, "-dirty" where package or configs differ from it; None outside one."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        # not the results files, which every trial of a sweep changes
        changed = _git(root, "status", "--porcelain", "--", "uedpo", "conf")
    except FileNotFoundError:  # no git on this machine
        return None
    return commit + "-dirty" * bool(changed) if commit else None


def _git(root: Path, *command: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def versions() -> dict[str, str | None]:
    """What else decides the bits of a run."""
    import peft
    import pytorch_lightning
    import torch
    import transformers

    packages = (uedpo, torch, pytorch_lightning, transformers, peft)
    found: dict[str, str | None] = {p.__name__: str(p.__version__) for p in packages}
    return found | {"python": platform.python_version(), "commit": code_version()}
