"""Headless Chromium over a pair of pipes, with nothing but the standard library."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40}


def find() -> str | None:
    """Path of the browser, UEDPO_CHROMIUM first."""
    return os.environ.get("UEDPO_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """A browser with one page that keeps account of errors, requests and dialogs.

    Raises:
        TimeoutError: the browser does not answer.
    """

    def __init__(self, path: str, timeout: float = 60) -> None:
        self.timeout, self.count, self.buffer = timeout, 0, b""
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        pipes = [*os.pipe(), *os.pipe()]
        # above the numbers 3 and 4, by which the browser expects its ends
        theirs_in, ours_out, ours_in, theirs_out = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in pipes)
        for fd in pipes:
            os.close(fd)
        command = [
            path, "--headless", "--remote-debugging-pipe", "--disable-gpu", "--hide-scrollbars",
            "--no-first-run", "--disable-dev-shm-usage", "--disable-background-networking",
            "--force-color-profile=srgb", f"--user-data-dir={self.profile.name}", "about:blank",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
        ]  # fmt: skip
        script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command], pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self.ours_in, self.ours_out = ours_in, ours_out
        self.session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        os.close(self.ours_in)
        os.close(self.ours_out)
        self.profile.cleanup()

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Result of a command of the DevTools protocol."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.ours_out, data) :]
        while (reply := self._receive()).get("id") != self.count:
            self._note(reply)
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']['message']}")
        return dict(reply["result"])

    def open(self, path: Path) -> float:
        """Load a file; returns the seconds from asking to the end of loading."""
        self.errors, self.requests = [], []
        begin = time.perf_counter()
        self.send("Page.navigate", url=path.resolve().as_uri())
        while (event := self._receive()).get("method") != "Page.loadEventFired":
            self._note(event)
        return time.perf_counter() - begin

    def run(self, code: str) -> Any:
        """Value of a JavaScript expression, awaited."""
        found = self.send("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(json.dumps(found["exceptionDetails"])[:2000])
        return found["result"].get("value")

    def press(self, key: str) -> None:
        about: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": KEYS[key]}
        text = {"text": "\r"} if key == "Enter" else {"text": " "} if key == " " else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", **about, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **about)

    def size(self, width: int, height: int, scale: float = 1) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale,
            mobile=width < 500,
        )  # fmt: skip

    def media(self, dark: bool = False, media: str = "") -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def screenshot(self, clip: dict[str, float] | None = None) -> bytes:
        """PNG of the window, or of {x, y, width, height} of the page."""
        more = {"clip": clip | {"scale": 1}, "captureBeyondViewport": True} if clip else {}
        return base64.b64decode(self.send("Page.captureScreenshot", format="png", **more)["data"])

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + self.timeout
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.ours_in], [], [], max(0.0, end - time.monotonic()))
            part = os.read(self.ours_in, 1 << 20) if ready else b""
            if not part:
                raise TimeoutError(f"the browser is silent (exit code {self.process.poll()})")
            self.buffer += part
        message, _, self.buffer = self.buffer.partition(b"\0")
        return dict(json.loads(message))

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method in ("Runtime.exceptionThrown", "Page.javascriptDialogOpening") or (
            method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert")
        ):
            self.errors.append(json.dumps(params)[:1000])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
