"""A chat endpoint on this machine: replies are a function of the prompt, faults of a seed."""

import contextlib
import hashlib
import json
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = "judge-2026-01-01"
FAULTS = ("500", "timeout", "malformed", "wrong model", "429")


def reply_to(prompt):
    number = hashlib.sha256(prompt.encode()).digest()[0]
    return f"It is fine.\n\nRating: {number % 7}"


def phrases_of(prompt):
    number = hashlib.sha256(prompt.encode()).digest()[0]
    return json.dumps(["dog", "red car", "tree"][: number % 3 + 1])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # five by default: a sixth connection at once would wait for a second


class Stub:
    """`faulty` of the calls fail, each kind in turn; `requests` holds (headers, body) of all calls."""

    def __init__(self, faulty=0.0, reply=reply_to, delay=0.0, pause=2.0, seed=0, port=0):
        self.faulty, self.reply, self.delay, self.pause = faulty, reply, delay, pause
        self.random, self.guard = random.Random(seed), threading.Lock()
        self.requests, self.faults = [], []
        self.server = _Server(("127.0.0.1", port), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def fault(self):
        with self.guard:
            if self.random.random() >= self.faulty:
                return ""
            self.faults.append(FAULTS[len(self.faults) % len(FAULTS)])
            return self.faults[-1]

    def answer(self, handler, headers, body):
        name = self.fault()
        if name == "timeout":
            time.sleep(self.pause)
        time.sleep(self.delay)
        text = self.reply(body["messages"][0]["content"])
        model = "another" if name == "wrong model" else body["model"]
        whole = json.dumps({"model": model, "choices": [{"message": {"content": text}}]})
        # an endpoint that quotes the key back, as some do when they refuse it
        if name in ("500", "429"):
            return int(name), f"no, not with {headers.get('Authorization')}"
        return 200, whole[: len(whole) // 2] if name == "malformed" else whole

    def _handler(stub):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with stub.guard:
                    stub.requests.append((dict(self.headers), body))
                code, text = stub.answer(self, self.headers, body)
                with contextlib.suppress(ConnectionError):
                    self.send_response(code)
                    if code == 429:
                        self.send_header("Retry-After", "0.05")
                    self.send_header("Content-Length", str(len(text.encode())))
                    self.end_headers()
                    self.wfile.write(text.encode())

            def do_GET(self):
                stub.requests.append((dict(self.headers), None))

            def log_message(self, *args):
                pass

        return Handler

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()
