"""A judge's server does its worst: every call ends in time with an outcome, and the key is kept nowhere."""

import base64
import contextlib
import html
import json
import quopri
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse

import pytest

from uedpo.evaluation.append_file import ANSWERS, REPLIES, AppendFile
from uedpo.evaluation.endpoint import OK, Endpoint

KEY = "sk/+Key=with&all~signs-0123456789"
GOOD = json.dumps({"model": "m", "choices": [{"message": {"content": "fine"}}]}).encode()


class Raw:
    """A server that sends the given pieces of bytes, a pause between them, then closes."""

    def __init__(self, pieces, pause=0.0, context=None):
        self.pieces, self.pause, self.context = pieces, pause, context
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.hits = 0
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def port(self):
        return self.listener.getsockname()[1]

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.hits += 1
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        with contextlib.suppress(OSError), connection:
            if self.context:
                connection = self.context.wrap_socket(connection, server_side=True)
            connection.recv(65536)
            for piece in self.pieces:
                connection.sendall(piece)
                time.sleep(self.pause)
            if not self.context:  # unread bytes would reset the connection before the answer is read
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass


@pytest.fixture
def ask(monkeypatch):
    """ask(pieces, ...) -> (outcome, seconds)"""
    monkeypatch.setenv("UEDPO_JUDGE_KEY", KEY)
    servers = []

    def go(*pieces, pause=0.0, timeout=20.0, scheme="http", context=None):
        servers.append(Raw(pieces, pause, context))
        begin = time.monotonic()
        outcome = Endpoint(f"{scheme}://127.0.0.1:{servers[-1].port}", "m", timeout).ask({"messages": []})
        return outcome, time.monotonic() - begin

    yield go
    for server in servers:
        server.listener.close()


def head(code=200, *lines):
    return "\r\n".join([f"HTTP/1.1 {code} X", *lines, "", ""]).encode()


PLACES = [
    "http://[", "http://[::1", "//[x", "http://a:b:c/", "http://127.0.0.1:99999/", "\x00", "javascript:1",
    "http://\xff\xfe/", "", "ftp://127.0.0.1/x", "file:///etc/passwd",
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES, ids=repr)
@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.cases(20)
def test_redirects_are_outcomes_whatever_they_name(ask, place, code):
    outcome, _ = ask(head(code, f"Location: {place}") + b"body")
    assert (outcome.status, outcome.raw) == (f"http {code}", "body")


def test_a_redirect_is_not_followed(ask):
    other = Raw([head() + GOOD])
    outcome, _ = ask(head(302, f"Location: http://127.0.0.1:{other.port}/"))
    assert (outcome.status, other.hits) == ("http 302", 0)


BAD = {
    "nothing": [b""],
    "no status": [b"\r\n\r\n"],
    "binary": [bytes(range(256)) * 10],
    "long line": [b"HTTP/1.1 200 " + b"x" * 100_000],
    "headers": [b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000],
    "length": [head(200, "Content-Length: 99999999999999") + b"x"],
    "length text": [head(200, "Content-Length: x") + b"x"],
    "chunks": [head(200, "Transfer-Encoding: chunked") + b"zz\r\n"],
    "deep": [head() + b"[" * 500_000],
    "numbers": [head() + b'{"model": ' + b"9" * 100_000 + b"}"],
    "wait": [head(429, "Retry-After: nan")],
    "wait long": [head(429, "Retry-After: 1e999")],
    "wait date": [head(429, "Retry-After: Fri, 31 Dec 99999 23:59:59 GMT")],
}


@pytest.mark.parametrize("name", BAD)
def test_broken_answers_are_outcomes(ask, name):
    outcome, seconds = ask(*BAD[name])
    assert outcome.status != OK
    assert 0 <= outcome.retry_after < 1e9
    assert seconds < 10


DRIPS = {
    "status": [bytes([c]) for c in head() + GOOD],
    "headers": [head()[:-2], *[b"a: b\r\n"] * 1000],
    "body": [head(), *[bytes([c]) for c in GOOD], *[b" "] * 1000],
    "chunks": [head(200, "Transfer-Encoding: chunked"), *[b"1\r\nx\r\n"] * 1000],
    "refusal": [head(500), *[b"x"] * 1000],
}


@pytest.mark.parametrize("name", DRIPS)
@pytest.mark.cases(2)
def test_answers_that_drip_end_in_time(ask, name):
    outcome, seconds = ask(*DRIPS[name], pause=0.1, timeout=1.0)
    assert outcome.status == "timeout"
    assert 0.9 < seconds < 2.5


def test_good_answers_leave_no_thread(ask):
    before = threading.active_count()
    outcome, _ = ask(head() + GOOD, timeout=30.0)
    assert outcome.status == OK
    time.sleep(0.3)
    assert threading.active_count() <= before + 1  # the server's own


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    done = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("no openssl")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def test_tls_that_nobody_signed_gets_no_key(ask, certificate):
    outcome, _ = ask(head() + GOOD, scheme="https", context=certificate)
    assert outcome.status == "no connection"
    assert "CERTIFICATE_VERIFY_FAILED" in outcome.raw
    outcome, _ = ask(b"not TLS at all", scheme="https")
    assert outcome.status == "no connection"
    outcome, seconds = ask(*[b"\x16"] * 100, pause=0.1, timeout=1.0, scheme="https")
    assert outcome.status in ("timeout", "no connection")
    assert seconds < 2.5


def escaped(key):
    return "".join(f"\\u{ord(c):04X}" for c in key)


ECHOES = {
    "plain": KEY,
    "json": json.dumps(KEY).replace("/", "\\/"),
    "json all": escaped(KEY),
    "address": urllib.parse.quote(KEY, safe=""),
    "address small": urllib.parse.quote(KEY, safe="").lower().replace("key", "Key"),
    "address all": "".join(f"%{ord(c):02x}" for c in KEY),
    "address twice": urllib.parse.quote(urllib.parse.quote(KEY, safe=""), safe=""),
    "mail": quopri.encodestring(KEY.encode()).decode().strip(),
    "mail all": "".join(f"={ord(c):02X}" for c in KEY),
    "html": html.escape(KEY).replace("&amp;", "&#38;"),
    "html all": "".join(f"&#{ord(c)};" for c in KEY),
    "base64": base64.b64encode(KEY.encode()).decode(),
    "base64 bearer": base64.b64encode(f"Bearer {KEY}".encode()).decode(),
    "base64 user": base64.b64encode(f"us:{KEY}!".encode()).decode(),
    "base64 json": base64.b64encode(json.dumps({"k": KEY}).encode()).decode(),
    "base64 address": urllib.parse.quote(base64.urlsafe_b64encode(KEY.encode()).decode(), safe=""),
    "hex": KEY.encode().hex(),
    "bytes": "".join(f"\\x{ord(c):02x}" for c in KEY),
    "wide": "\0".join(KEY),
}


@pytest.mark.parametrize("name", ECHOES)
@pytest.mark.parametrize("code", [200, 401, 500])
@pytest.mark.cases(15)
def test_echoes_of_the_key_are_cut_out(ask, name, code):
    echo = ECHOES[name]
    outcome, _ = ask(head(code) + f"<< {echo} >>".encode())
    assert outcome.raw.startswith("<< ")
    assert "[key]" in outcome.raw
    for length in (len(echo) // 2, 16):
        assert echo[4 : 4 + length] not in outcome.raw
    reply = json.dumps({"model": "m", "choices": [{"message": {"content": f"Rating: 1 {echo}"}}]})
    outcome, _ = ask(head() + reply.encode())
    assert outcome.status == OK
    assert echo not in outcome.reply


@pytest.mark.parametrize("key", ["a", "ab", "abc", ".*", "(((", "\\", "k" * 300])
def test_odd_keys_cut_out_only_themselves(monkeypatch, key):
    monkeypatch.setenv("UEDPO_JUDGE_KEY", key)
    clean = Endpoint("http://127.0.0.1:1", "m", 1.0)._clean
    assert clean(f"1 {key} 2") == "1 [key] 2"
    assert clean("123 456") == "123 456"


def test_replies_are_for_whoever_asked(tmp_path):
    for kind, mode in ((REPLIES, 0o600), (ANSWERS, 0o644)):
        with AppendFile(tmp_path / kind, {kind: 1}):
            assert (tmp_path / kind).stat().st_mode & 0o777 == mode
