"""Errors of bad input: one line each, no traceback. Needs no torch."""

from __future__ import annotations

import os
import re
from pathlib import Path
from unicodedata import category

_NO_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|CUDA out of memory|CUBLAS_STATUS_ALLOC_FAILED|out of memory"
)


ANOTHER_FOLDER = "name another folder (on the command line hydra.run.dir=DIR)"


class InputError(ValueError):
    """Data or a model that cannot be used; the message says what, where, and the remedy."""


class GuardError(RuntimeError):
    """Training that would go on with numbers that are not finite."""


class ConfigError(Exception):
    """One or more configuration problems, one a line."""


class Stopped(SystemExit):
    """Leaves the process with `code`; `line` has been printed."""

    def __init__(self, line: str, code: int) -> None:
        super().__init__(code)
        self.line = line


def stop_on(problems: list[str]) -> None:
    """Raise a ConfigError that lists `problems`, if there are any."""
    if problems:
        count = f"{len(problems)} problem{'s' * (len(problems) > 1)} in the configuration"
        raise ConfigError("\n  ".join([f"{count}:", *problems]))


def local_path(text: str) -> Path:
    """A path with ~ and ~name as home folders; where there is no such name, it is a file's name.

    Raises:
        InputError: an address.
    """
    if "://" in text:
        raise InputError(f"{text[:200]}: is an address; give a path of this machine")
    return Path(os.path.expanduser(text))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is used up: of the GPU, of the machine, or of torch on a CPU."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or bool(_NO_MEMORY.search(str(error)))


def os_line(error: OSError) -> str:
    """What an operating system's error says, in one line, with the file."""
    if error.strerror is None or error.filename is None:
        return plain_line(error)
    return clean(f"{str(error.filename)[:200]}: {error.strerror}")


def plain_line(error: BaseException) -> str:
    """What an error says: without the traceback that a loader's worker wraps around it, and without
    characters that act on a terminal."""
    text = str(error).rstrip()
    if text.startswith("Caught "):
        last = text.splitlines()[-1]
        text = last.partition(": ")[2] or last
    return clean(text)


def clean(text: str) -> str:
    """`text` with what acts on a terminal written out: escape sequences, bells, marks that turn it round."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in "\n\t" or category(c) == "Zs" else repr(c)[1:-1] for c in text
    )
