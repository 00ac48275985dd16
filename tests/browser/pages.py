"""Run directories for the browser: what a run writes, without running one."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.unit.test_report import run_folder
from uedpo.microworld.data import MicroWorldPairs
from uedpo.microworld.scene import make_scene, render
from uedpo.report.classes import class_table
from uedpo.report.pictures import picture_url
from uedpo.report.record import said

PAYLOADS = (
    "<script>window.pwned=1</script>", "<img src=x onerror=window.pwned=1>",
    "\"><svg onload=window.pwned=1>", "' onmouseover='window.pwned=1",
    "</style><script>window.pwned=1</script>", "</title><script>pwned=1</script>",
    "<iframe srcdoc='<script>parent.pwned=1</script>'>", "<a href=javascript:window.pwned=1>x</a>",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
    "<link rel=stylesheet href=//127.0.0.1:9/x>", "<base href=http://127.0.0.1:9/>",
    "<form action=http://127.0.0.1:9/><button>x</button></form>",
    "<object data=data:text/html,x></object>", "<math><mtext></p><style><img src=x onerror=pwned=1>",
    "{{ 7 * 7 }}", "{% for x in y %}", "<!--", "]]><script>pwned=1</script>", "\x1b[31m",
    "&#60;script&#62;pwned=1",
)  # fmt: skip
WRAPS = ("{}", " {} ", "cat.jpg{}", "{}</p></div></section>", "\"{}", "'{}'", "`{}`", "</i>{}", "--> {}",
         "\u202e{}\u0000")  # fmt: skip
HOSTILE = [wrap.replace("{}", payload) for payload in PAYLOADS for wrap in WRAPS]


def token(text: str, i: int, **more: object) -> dict[str, object]:
    u, delta, weight = (i * 7 % 23 - 9) / 5, (i * 5 % 19 - 4) / 4, 1 + (i % 3 == 0) * (i % 7) / 24
    kind = "" if weight == 1 else "I" if i % 2 else "II"
    return {"text": text, "logp": -i / 9, "u": u, "delta": delta, "weight": weight, "type": kind, **more}


@functools.cache
def shipped() -> MicroWorldPairs:
    return MicroWorldPairs("val")


def trace(index: int) -> dict[str, object]:
    """Of a shipped pair, with made-up signals and drawn pictures."""
    pair = shipped()[index % 400]
    clear = render(make_scene("shift", index))
    noise = np.random.default_rng(index).normal(0, 60, (96, 96, 3))
    noisy = Image.fromarray((np.asarray(clear) + noise).clip(0, 255).astype(np.uint8))
    sides = {}
    for side, text in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        words = [f" {w}" for w in text.split()] * 3
        states = {
            when: [token(w, i + shift) for i, w in enumerate(words[:45])]
            for shift, when in ((0, "before"), (3, "after"))
        }
        for tokens in states.values():
            for t in tokens:
                right = str(t["text"]).strip() != "cow"
                t |= {"kind": "object", "right": right, "size": "small", "word": str(t["text"]).strip()}
        sides[side] = states
    says = {"before": said(pair.rejected, pair), "after": said(pair.chosen, pair)}
    pictures = {"clear_image": picture_url(clear), "corrupted_image": picture_url(noisy)}
    return {"id": pair.id, "prompt": pair.prompt, **pictures, **sides, "says": says}


def whole_run(path: Path, pairs: int) -> Path:
    """The directory of a run with every file that the page is made of."""
    folder = run_folder(path, name="default")
    traces = [trace(i) for i in range(pairs)]
    (folder / "traces.json").write_text(json.dumps(traces))
    (folder / "classes.json").write_text(json.dumps(class_table(traces[:8])))
    rows = [
        {"step": s, "reweighted": {"chosen": 0.4, "rejected": 0.4}}
        | {
            name: {side: [s / 90 + q for q in (-1, -0.5, 0, 0.7, 1.5)] for side in ("chosen", "rejected")}
            for name in ("uncertainty", "sensitivity", "weight")
        }
        for s in range(0, 80, 5)
    ]
    (folder / "distributions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "environment.json").write_text(json.dumps({
        "versions": {"torch": "2", "commit": None}, "platform": "Linux", "device": "cpu", "devices": 1,
        "seconds": 1.0, "finished": "today", "data_sha256": "0" * 64, "rows": {"train": 1, "val": 1},
        "model_sha256": None, "setting": "0" * 16,
    }))  # fmt: skip
    return folder
