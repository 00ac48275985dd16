"""Malformed inputs end in one line that names the place, never in a traceback, never in a hang."""

import collections
import copy
import random
import re
import time

import pytest
from omegaconf import OmegaConf

from tests.config.test_validate import composed
from tests.security.mutator import GOOD, KEYS, bad_config, bad_picture, bad_row
from tests.unit.test_images import encoded, noise
from tests.unit.test_rows import write
from uedpo.config.validate import validate
from uedpo.data.jsonl import JsonlPairs
from uedpo.errors import ConfigError, InputError

SIZES = [pytest.param((150, 90, 60), id="some"),
         pytest.param((1000, 600, 400), id="all", marks=pytest.mark.slow)]  # fmt: skip
LIMIT = 10.0  # seconds


class Score:
    """What became of the inputs; a crash fails the test at once."""

    def __init__(self):
        self.refused, self.named, self.taken, self.slowest, self.unnamed = 0, 0, 0, 0.0, []

    def run(self, call, caught, names):
        begin = time.perf_counter()
        try:
            call()
            self.taken += 1
        except caught as error:
            self.refused += 1
            if names(str(error)):
                self.named += 1
            else:
                self.unnamed.append(str(error)[:200])
        self.slowest = max(self.slowest, time.perf_counter() - begin)

    def check(self, what):
        counts = f"{self.refused} refused, {self.named} named, {self.taken} taken"
        print(f"{what}: {counts}, {self.slowest:.2f} s at most")
        assert self.refused > self.taken / 4
        assert self.named >= 0.99 * self.refused, self.unnamed[:5]
        assert self.slowest < LIMIT


@pytest.mark.parametrize("sizes", SIZES)
def test_malformed_rows(tmp_path, sizes):
    noise().save(tmp_path / "a.png")
    score, rng = Score(), random.Random(1)
    for _ in range(sizes[0]):
        line, field = bad_row(rng)
        fields = {"row", *KEYS, "id", "negatives", "similarity"} if field in ("any", "row") else {field}
        file = write(tmp_path / "rows.jsonl", GOOD, line)
        pattern = re.compile(
            rf"rows\.jsonl:2: ({'|'.join(fields)}|[^ ]+(?= is there twice)) .*\[[A-Z0-9_]+\]"
        )
        score.run(
            lambda file=file: JsonlPairs(file, max_bad_fraction=0.0),
            InputError,
            lambda text, pattern=pattern: pattern.search(text) and len(text.splitlines()) == 1,
        )
    score.check("rows")


@pytest.mark.parametrize("sizes", SIZES)
def test_malformed_pictures(tmp_path, sizes):
    image = noise((90, 60))
    frames = [noise((30, 30)), noise((30, 30), "L")]
    whole = [encoded(image, f) for f in ("JPEG", "PNG", "WEBP", "GIF")]
    whole += [
        encoded(image, "JPEG", progressive=True),
        encoded(frames[0], "GIF", save_all=True, append_images=frames),
    ]
    whole += [encoded(noise(mode="CMYK"), "JPEG"), encoded(noise(mode="RGBA"), "PNG")]
    score, rng = Score(), random.Random(2)
    for _ in range(sizes[1]):
        data = bad_picture(rng, whole)
        (tmp_path / "a.png").write_bytes(data)
        file = write(tmp_path / "rows.jsonl", GOOD)

        def call(file=file):
            assert JsonlPairs(file, max_bad_fraction=0.0)[0].image.mode == "RGB"

        score.run(call, InputError, re.compile(r"rows\.jsonl:1.*: image .*\[IMAGE_[A-Z_]+\]").search)
    score.check("pictures")


@pytest.mark.parametrize("sizes", SIZES)
def test_malformed_configurations(sizes):
    base = OmegaConf.to_container(composed(), resolve=False)
    leaves = list(dotted(base))
    score, rng = Score(), random.Random(3)
    kinds = collections.Counter()
    for _ in range(sizes[2]):
        key, value = bad_config(rng, leaves)
        config = copy.deepcopy(base)
        node, *_ = [config]
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {}) if isinstance(node, dict) else {}
        if not isinstance(node, dict):
            continue
        node[last] = value
        kinds[type(value).__name__] += 1
        score.run(
            lambda config=config: validate(OmegaConf.create(config)),
            ConfigError,
            lambda text, key=key: names(key, text, base),
        )
    score.check("configurations")


def names(key, text, base):
    """Whether `text` has the key, or as much of it as the typo is in."""
    node, path = base, []
    for part in key.split("."):
        path.append(part)
        if not isinstance(node, dict) or part not in node:
            break
        node = node[part]
    return ".".join(path) in text


def dotted(node, path=""):
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from dotted(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"
