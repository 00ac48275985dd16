"""One call of an OpenAI-compatible chat endpoint, with whatever happened as data.

The key comes from the environment (UEDPO_JUDGE_KEY, else OPENAI_API_KEY), goes into one header of the
request, and is cut out of everything that is kept.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from uedpo.errors import InputError

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
    """A redirect would carry the key to another host."""

    def redirect_request(self, *args: Any) -> None:
        return None


class Endpoint:
    """A chat endpoint and the one model that may answer.

    Args:
        base_url: up to and without "/chat/completions".
        model: the name that each response must carry.
        timeout: seconds without a byte after which a call has failed.

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
        self._opener = urllib.request.build_opener(_NoRedirect)

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
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                return self._read(response.read(_MOST_BYTES).decode("utf-8", "replace"))
        except urllib.error.HTTPError as error:
            return Outcome(f"http {error.code}", raw=_body(error), retry_after=_retry_after(error.headers))
        except TimeoutError:
            return Outcome("timeout")
        except urllib.error.URLError as error:
            timeout = isinstance(error.reason, TimeoutError)
            return Outcome("timeout" if timeout else "no connection", raw=str(error.reason))
        except (OSError, http.client.HTTPException) as error:
            return Outcome("no connection", raw=repr(error))

    def _read(self, text: str) -> Outcome:
        try:
            body = json.loads(text)
            model, reply = body["model"], body["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            return Outcome("malformed", raw=text)
        if not isinstance(model, str) or not isinstance(reply, str):
            return Outcome("malformed", raw=text)
        if model != self.model:
            return Outcome(WRONG_MODEL, model=model, raw=text)
        return Outcome(OK, reply, model)

    def _clean(self, text: str | None) -> str | None:
        return text.replace(self._key, "[key]") if text and self._key else text


def _body(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(_MOST_BYTES).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return ""


def _retry_after(headers: Any) -> float:
    """Seconds of a Retry-After header, which holds seconds or a date; 0 without one."""
    text = headers.get("Retry-After") or ""
    try:
        return max(float(text), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, IndexError):
        return 0.0
