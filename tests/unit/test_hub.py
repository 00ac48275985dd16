"""Whether the hub answers is known within seconds, by whatever way it is asked."""

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from huggingface_hub import constants

from uedpo.errors import InputError
from uedpo.runtime import hub

PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


@pytest.fixture
def ask(monkeypatch):
    """(whether an endpoint is reachable, seconds it took to know)."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub, "PATIENCE", 0.5)

    def asked(endpoint):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        begin = time.monotonic()
        return hub.reachable.__wrapped__(), time.monotonic() - begin

    return asked


@pytest.fixture
def silent():
    """Address of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_an_endpoint_that_says_nothing_is_given_up(ask, silent):
    there, seconds = ask(silent)
    assert not there
    assert seconds < 0.5 + 1
    assert constants.HF_HUB_OFFLINE  # or the client would try for minutes


def test_a_port_that_nobody_listens_on_is_known_at_once(ask):
    assert ask("http://127.0.0.1:9")[0] is False


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", None], ids=["refuses", "says nothing"])
def test_a_proxy_that_does_not_answer_is_no_way(ask, silent, monkeypatch, proxy):
    monkeypatch.setenv("HTTP_PROXY", proxy or silent)
    there, seconds = ask("http://hub.invalid")
    assert not there
    assert seconds < 0.5 + 1


@pytest.mark.parametrize("status", [200, 401, 404, 503])
def test_whatever_a_hub_answers_it_is_there(ask, status):
    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert ask(f"http://127.0.0.1:{server.server_port}")[0]


@pytest.mark.parametrize("path", ["llava-hf/llava-1.5-7b-hf", "gpt2"])
def test_a_model_that_is_not_here_says_how_to_get_it(monkeypatch, tmp_path, path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "reachable", lambda: False)
    with pytest.raises(InputError, match=f"model.path={path}: .*run `hf download {path} --revision r`"):
        hub.check_present(path, "r")
    (tmp_path / f"models--{path.replace('/', '--')}/snapshots").mkdir(parents=True)
    hub.check_present(path)
    hub.check_present(str(tmp_path))
    hub.check_present("uedpo:micro_llava")
