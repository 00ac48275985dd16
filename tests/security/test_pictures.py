"""Addresses in rows are never fetched; pictures that would be gigabytes are refused by their header."""

import http.server
import json
import socket
import subprocess
import sys
import threading
import time

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.unit.test_images import encoded, noise, png_header
from tests.unit.test_rows import GOOD, rlhf_v, write
from uedpo.data.images import check_image
from uedpo.data.jsonl import JsonlPairs
from uedpo.data.rejects import RowProblem
from uedpo.errors import InputError


@pytest.fixture
def server(monkeypatch):
    """(port, hits) of a loopback server; every connection of this process is a hit too."""
    hits = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            hits.append(self.path)
            self.send_response(302)
            self.send_header("Location", "/again.png")
            self.end_headers()

        def log_message(self, *args):
            pass

    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True).start()
    connect = socket.socket.connect

    def counted(self, address):
        hits.append(address)
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", counted)
    yield listener.server_address[1], hits
    listener.shutdown()
    assert hits == []


def addresses(port):
    here = f"127.0.0.1:{port}"
    own = f"""
        http://{here}/a.png HTTP://{here}/a.png https://{here}/a.png http:/{here}/a.png //{here}/a.png
        http://[::1]:{port}/a.png http://0.0.0.0:{port}/a.png http://localhost:{port}/a.png
        http://user:pw@{here}/a.png http://2130706433:{port}/a.png ftp://{here}/a.png file://{here}/etc/passwd
        file:///etc/passwd data:image/png;base64,AAAA s3://{here}/a.png hf://datasets/{here}/a.png
        zip://a.png::http://{here}/a.zip \\\\{here}\\a.png gopher://{here}/ http://{here}/redirect C:\\a.png
    """.split()
    return [*own, f" http://{here}/a.png", f"\thttp://{here}/a.png"]


def test_no_address_is_fetched(server, tmp_path, monkeypatch):
    port, _ = server
    for address in addresses(port):
        with pytest.raises(InputError, match=r"rows\.jsonl:1: image .* is an address; nothing is fetched"):
            JsonlPairs(write(tmp_path / "rows.jsonl", GOOD | {"image": address}))
    for address in (f"x/http://127.0.0.1:{port}/a.png", "..\\http", f"127.0.0.1:{port}/a.png"):
        with pytest.raises(InputError, match=r"rows\.jsonl:1: image"):
            JsonlPairs(write(tmp_path / "rows.jsonl", GOOD | {"image": address}))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    folder.mkdir()
    text = json.dumps({"question": "What?", "chosen": "A cow.", "rejected": "A pig."})
    stored = [{"bytes": None, "path": a} for a in (*addresses(port), "/etc/passwd")]
    rlhf_v(folder, *({"idx": i, "text": text, "image": image} for i, image in enumerate(stored)))
    from uedpo.data.rlhf_v import RLHFVPairs

    with pytest.raises(InputError, match=r"none is left: .* IMAGE_MISSING"):
        RLHFVPairs(str(folder), max_bad_fraction=1.0)


def bombs() -> list[bytes]:
    """Pictures of kilobytes that would be gigabytes of pixels, most of them by a forged header."""
    gif = bytearray(encoded(noise(), "GIF"))
    gif[6:10] = b"\xff" * 4
    jpeg = bytearray(encoded(noise(), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = b"\xff" * 4
    sizes = ((10_001, 5_000), (65_535, 65_535), (2**31 - 1, 2**31 - 1))
    whole = encoded(Image.new("1", (10_000, 10_001)), "PNG")
    return [*(png_header(w, h) for w, h in sizes), bytes(gif), bytes(jpeg), whole]


def test_bombs_are_refused_by_their_header():
    for bomb in bombs():
        begin = time.process_time()
        with pytest.raises(RowProblem) as caught:
            check_image(bomb)
        assert caught.value.code == "IMAGE_TOO_LARGE"
        assert time.process_time() - begin < 0.1


MEASURE = """
import re, sys
from pathlib import Path
from uedpo.data.images import check_image, load_image
from uedpo.data.rejects import RowProblem
# not getrusage: its peak is that of the parent until it is passed
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
for look in (check_image, load_image):
    look(Path(sys.argv[1]))  # what any picture costs: the decoders' own start
before = peak()
for name in sys.argv[2:]:
    for look in (check_image, load_image):
        try:
            look(Path(name))
            sys.exit(f"{name} was taken")
        except RowProblem:
            pass
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_bombs_cost_no_memory(tmp_path):
    comment = PngInfo()
    comment.add_text("bomb", "0" * 200_000_000, zip=True)
    hostile = [*bombs(), encoded(noise(), "PNG", pnginfo=comment)]
    files = [tmp_path / f"{i}.png" for i in range(len(hostile) + 1)]
    for file, content in zip(files, [encoded(noise(), "PNG"), *hostile], strict=True):
        file.write_bytes(content)
    command = [sys.executable, "-c", MEASURE, *map(str, files)]
    grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(grown) < 50_000  # kB, all of them together
