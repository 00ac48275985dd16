"""The benchmarks' real files: where they are, and how tests read them and score answers with them."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

FOLDER = os.environ.get("UEDPO_BENCHMARKS", "")
BENCHMARKS = Path(FOLDER)
needed = pytest.mark.skipif(not FOLDER, reason="set UEDPO_BENCHMARKS")


def load(path):
    data = path.read_bytes()
    return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)


def discriminative(amber, answer):
    return [{"id": a.id, "response": answer(a)} for a in amber if a.kind != "generative"]
