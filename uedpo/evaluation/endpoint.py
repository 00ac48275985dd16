"""One call of an OpenAI-compatible chat endpoint, with whatever happened as data.

The key comes from the environment (UEDPO_JUDGE_KEY, else OPENAI_API_KEY), goes into one header of the
request, and is cut out of everything that is kept, however it was encoded.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import math
import os
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from uedpo.errors import InputError
from uedpo.runtime.small_json import loads

OK, WRONG_MODEL = "ok", "wrong model"
_MOST_BYTES = 1_000_000  # of a response


class Outcome(NamedTuple):
    """What one call gave.

    Attributes:
        status: "ok", "wrong model", "http 429", "timeout", "no connection", "malformed".
        reply: the message's text where status is "ok".
        model: the model named by the response.
        raw: the response's body where status is another.
        retry_after: seconds the server asks to wait.
    """

    status: str
    reply: str | None = None
    model: str | None = None
    raw: str | None = None
    retry_after: float = 0.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host; its address is not even read."""

    def http_error_302(self, *args: Any) -> None:
        return None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302  # type: ignore[assignment]


class _Deadline(urllib.request.HTTPSHandler, urllib.request.HTTPHandler):
    """Connections that are cut a while after the call began, however lively they drip."""

    def __init__(self, seconds: float, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self.end, self._context = time.monotonic() + seconds, context
        self._timers: list[threading.Timer] = []

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(self._made(http.client.HTTPConnection), request)  # type: ignore[arg-type]

    def https_open(self, request: urllib.request.Request) -> Any:
        made = self._made(http.client.HTTPSConnection)
        return self.do_open(made, request, context=self._context)  # type: ignore[arg-type]

    def passed(self) -> bool:
        """Whether the call has had its time."""
        return time.monotonic() >= self.end

    def cancel(self) -> None:
        """The call is over."""
        for timer in self._timers:
            timer.cancel()

    def _made(self, kind: Any) -> Any:
        def make(host: str, **options: Any) -> Any:
            connection = kind(host, **options)
            connection._create_connection = self._connect
            return connection

        return make

    def _connect(self, *args: Any, **options: Any) -> socket.socket:
        connected = socket.create_connection(*args, **options)
        twin = connected.dup()  # TLS takes the socket over; both end together

        def cut() -> None:
            with twin, contextlib.suppress(OSError):
                twin.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(max(self.end - time.monotonic(), 0.0), cut)
        timer.daemon = True
        timer.start()
        self._timers.append(timer)
        return connected


class Endpoint:
    """A chat endpoint and the one model that may answer.

    Args:
        base_url: up to and without "/chat/completions".
        model: the name that each response must carry.
        timeout: seconds after which a call has failed that has no whole answer.

    Raises:
        InputError: a base_url that is none, or that holds a password or a query.
    """

    def __init__(self, base_url: str, model: str, timeout: float) -> None:
        try:
            parts = urlsplit(base_url)
            _ = parts.port  # read lazily, and refused only then
        except ValueError:
            raise InputError("base_url: no address; must be like https://api.openai.com/v1") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"base_url={base_url!r}: must be like https://api.openai.com/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise InputError("base_url: must hold no user, password or query; keys come from UEDPO_JUDGE_KEY")
        self.url = base_url.rstrip("/") + "/chat/completions"
        self.model, self.timeout = model, timeout
        self._key = os.environ.get("UEDPO_JUDGE_KEY") or os.environ.get("OPENAI_API_KEY") or ""
        if not (self._key.isascii() and self._key.isprintable()):
            raise InputError("UEDPO_JUDGE_KEY or OPENAI_API_KEY: holds a character that no key has")
        self._context = ssl.create_default_context()
        self._echoes = _echoes(self._key) if self._key else None

    def ask(self, body: Mapping[str, Any]) -> Outcome:
        """Send one request; never raises for what a server or a network may do."""
        outcome = self._ask(body)
        return outcome._replace(
            reply=self._clean(outcome.reply), model=self._clean(outcome.model), raw=self._clean(outcome.raw)
        )

    def _ask(self, body: Mapping[str, Any]) -> Outcome:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = json.dumps({"model": self.model, **body}).encode()
        request = urllib.request.Request(self.url, data, headers)
        deadline = _Deadline(self.timeout, self._context)
        try:
            outcome = self._sent(urllib.request.build_opener(_NoRedirect, deadline), request)
        finally:
            deadline.cancel()
        return Outcome("timeout") if deadline.passed() and outcome.status != OK else outcome

    def _sent(self, opener: urllib.request.OpenerDirector, request: urllib.request.Request) -> Outcome:
        try:
            with opener.open(request, timeout=self.timeout) as response:
                return self._read(response.read(_MOST_BYTES).decode("utf-8", "replace"))
        except urllib.error.HTTPError as error:
            return Outcome(f"http {error.code}", raw=_body(error), retry_after=_retry_after(error.headers))
        except TimeoutError:
            return Outcome("timeout")
        except urllib.error.URLError as error:
            timeout = isinstance(error.reason, TimeoutError)
            return Outcome("timeout" if timeout else "no connection", raw=str(error.reason))
        except (OSError, http.client.HTTPException, ValueError) as error:
            return Outcome("no connection", raw=repr(error))

    def _read(self, text: str) -> Outcome:
        try:
            body = loads(text)
            model, reply = body["model"], body["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            return Outcome("malformed", raw=text)
        if not isinstance(model, str) or not isinstance(reply, str):
            return Outcome("malformed", raw=text)
        if model != self.model:
            return Outcome(WRONG_MODEL, model=model, raw=text)
        return Outcome(OK, reply, model)

    def _clean(self, text: str | None) -> str | None:
        return self._echoes.sub("[key]", text) if text and self._echoes else text


def _echoes(key: str) -> re.Pattern[str]:
    """Matches a key as it is, and as JSON, an address, HTML, mail, hexadecimal digits or base64 write it."""
    data, codes = key.encode(), [key, key.encode().hex(), key.encode().hex().upper()]
    for before in range(3):  # a character of base64 holds bits of up to two bytes
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(b"\0" * before + data + b"\0" * 2).decode()
            codes.append(text[-(-before * 8 // 6) : (before + len(data)) * 8 // 6])
    long_enough = [code for code in codes if len(code) >= min(len(key), 8)]
    return re.compile("|".join("\0*".join(map(_written, code)) for code in long_enough))


def _written(c: str) -> str:
    """Regular expression of the ways to write a character."""
    number, plain = f"{ord(c):02x}", re.escape(c)
    entity = rf"&#(?:0*{ord(c)}|x0*{number});"
    return rf"(?:\\?{plain}|(?i:\\u00{number}|\\x{number}|(?:%(?:25)?|=){number}|{entity}))"


def _body(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(_MOST_BYTES).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return ""


def _retry_after(headers: Any) -> float:
    """Seconds of a Retry-After header, which holds seconds or a date; 0 without one."""
    text = headers.get("Retry-After") or ""
    try:
        seconds = float(text)
        return max(seconds, 0.0) if math.isfinite(seconds) else 0.0
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, IndexError, OverflowError, OSError):
        return 0.0
