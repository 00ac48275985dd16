"""Secrets stay out of what a run writes: found in a configuration they are refused, in output blotted out.

A secret is known by its form, by the name of the key that holds it, or because an environment variable
with such a name holds the same value.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterable
from typing import Any

from uedpo.errors import clean

BLOT = "[redacted]"
_FORMS = re.compile(
    r"""\bsk-[A-Za-z0-9_-]{16,}          # OpenAI, Anthropic and others
    | \bhf_[A-Za-z0-9]{16,}              # Hugging Face
    | \bgh[pousr]_[A-Za-z0-9]{20,} | \bgithub_pat_\w{20,} | \bglpat-[\w-]{16,}
    | \b(?:AKIA|ASIA)[0-9A-Z]{16}\b | \bAIza[\w-]{30,} | \bxox[abeprs]-[\w-]{10,}
    | \bwandb_v\d_\w{20,} | \bpypi-[\w-]{20,} | \bnpm_[A-Za-z0-9]{20,}
    | \beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}                       # JSON web token
    | -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----[^-]*(?:-----END\ [A-Z ]*PRIVATE\ KEY-----)?
    | (?<=://)[^\s/:@'"]*:[^\s/@'"]+(?=@)                        # user:password@ of an address
    | (?i:\bbearer\s+)[A-Za-z0-9._~+/=-]{16,}
    """,
    re.VERBOSE,
)
_NAMES = re.compile(
    r"(?:(?:^|[._-])(?:token|pat|secrets?|credentials?)|[._-](?:pwd|pass)|sshpass|passw(?:or)?d|passphrase"
    r"|(?:api|access|auth|secret|private|signing|account|wandb|hf)[._-]?(?:key|token))$",
    re.IGNORECASE,
)
# variables named so hold secrets more often than not, keys of a configuration do not
_VARIABLES = re.compile(r"[._-](?:key|auth|dsn|key_base)$", re.IGNORECASE)
_NO_SECRETS = re.compile(r"(?:image|video|audio|pad|eos|bos|unk|cls|sep|mask)_token$", re.IGNORECASE)
# shorter values would blot out ordinary words
_SHORTEST = 8


def secret_name(name: str) -> bool:
    """Whether a key or an environment variable is named as what holds a secret."""
    return bool(_NAMES.search(name)) and not _NO_SECRETS.search(name)


@functools.cache
def _secret_variable(name: str) -> bool:
    return secret_name(name) or bool(_VARIABLES.search(name))


def known_secrets() -> set[str]:
    """Values of environment variables named so."""
    named = (value for name, value in os.environ.items() if _secret_variable(name))
    return {value for value in named if len(value) >= _SHORTEST}


def looks_secret(name: str, value: object, known: Iterable[str] | None = None) -> bool:
    """Whether `value`, found under the key `name`, must not be written anywhere; `known` as of `redact`."""
    if not isinstance(value, str) or not value.strip() or value.startswith(("???", "${")):
        return False
    known = known_secrets() if known is None else known
    if _FORMS.search(value) or any(secret in value for secret in known):
        return True
    return secret_name(name)


def redact(text: str, known: Iterable[str] | None = None) -> str:
    """`text` with secrets blotted out; `known` defaults to those of the environment."""
    for secret in sorted(known_secrets() if known is None else known, key=len, reverse=True):
        text = text.replace(secret, BLOT)
    return _FORMS.sub(BLOT, text)


# what libraries draw bars and colours with; titles, clipboards and links are other sequences
_ACTS = re.compile(
    r"\x1b(?!\[[0-9;?]*[A-KJmhl])|[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)


class _Redacting:
    """A text stream that blots out secrets and writes out control characters, else the stream it wraps."""

    def __init__(self, stream: Any, known: set[str]) -> None:
        self.wrapped, self.known = stream, known

    def write(self, text: str) -> int:
        said = _ACTS.sub(lambda found: repr(found[0])[1:-1], redact(text, self.known))
        self.wrapped.write(said)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)


def install() -> None:
    """Redact what this process prints and logs from now on; a second call changes nothing."""
    known = known_secrets()
    if isinstance(sys.stdout, _Redacting):
        return
    sys.stdout, sys.stderr = _Redacting(sys.stdout, known), _Redacting(sys.stderr, known)
    make = logging.getLogRecordFactory()

    def redacted(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        try:
            record.msg, record.args = clean(redact(record.getMessage(), known)), ()
        except (TypeError, ValueError):  # logging reports a format that does not fit its arguments
            return record
        if record.exc_info and record.exc_info[0]:
            lines = traceback.format_exception(*record.exc_info)
            record.exc_text = redact("".join(lines).rstrip("\n"), known)
        return record

    logging.setLogRecordFactory(redacted)
    # W&B would store the command line, the console as it was before redaction, the diff and the remote of git
    os.environ |= {
        "WANDB_CONSOLE": "off", "WANDB_DISABLE_CODE": "true", "WANDB_DISABLE_GIT": "true",
        "WANDB__DISABLE_META": "true",
    }  # fmt: skip
