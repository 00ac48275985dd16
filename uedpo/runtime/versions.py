"""Which code ran: the commit of the checkout, and the versions of what else decides the bits of a run."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib import import_module
from pathlib import Path


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
    packages = ("uedpo", "torch", "pytorch_lightning", "transformers", "peft")
    return {**versions_of(*packages), "commit": code_version()}


def versions_of(*packages: str) -> dict[str, str]:
    """Version of each package as it says itself, build included (2.11.0+cu130), and of Python."""
    found = {name: str(import_module(name).__version__) for name in packages}
    return found | {"python": platform.python_version()}
