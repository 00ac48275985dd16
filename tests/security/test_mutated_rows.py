"""1,000 mutated rows of all formats: none crashes, each rejected one is named, nothing is replaced."""

import copy
import json
import random

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.rows_of_formats import GOLDEN, write_json
from tests.security.mutator import ODD
from uedpo.data.files import FilePairs
from uedpo.data.reading import read_rows
from uedpo.data.rejects import FATAL, TooManyRejected
from uedpo.errors import InputError

ROWS, EXAMPLES = 50, 20  # 1,000 rows in all
SHORT = [value for value in ODD if not (isinstance(value, str) and len(value) > 1000)]
MORE = [
    [], [None], [[]], {}, "<image>", "<image>\n<image>", "none.png", {"bytes": None, "path": "a.png"},
    {"bytes": "x"}, {"role": "user"}, {"role": "user", "content": None}, {"from": 3, "value": "x"},
    [{"role": "assistant", "content": "x"}], [{"role": "user", "content": [{"type": "image", "url": "x"}]}],
    [{"role": "user", "content": [3]}], ["a.png"], ["a.png", "b.png"], [[0, 1, 2]], [[0, 1, float("nan")]],
    "a" * 300, "a.png", 10**400,
]  # fmt: skip
EXTRA = (
    "id", "weight", "chosen_weights", "rejected_weights", "rejected_image", "rejected_images", "images", "image",
    "system", "tools", "videos", "history", "image_at", "negatives", "similarity", "rejected_messages", "prompt",
)  # fmt: skip


def places(value, path=()):
    """Paths to everything inside a row."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def mutated(row, rng):
    """A copy with one to three things set, taken away, renamed or added."""
    row = copy.deepcopy(row)
    for _ in range(rng.randrange(1, 4)):
        there = list(places(row))
        kind = rng.randrange(4)
        if kind == 3 or not there:
            row[rng.choice(EXTRA)] = copy.deepcopy(rng.choice(SHORT + MORE))
            continue
        *path, last = rng.choice(there)
        node = row
        for key in path:
            node = node[key]
        if kind == 0:
            node[last] = copy.deepcopy(rng.choice(SHORT + MORE))
        elif kind == 1:
            del node[last]
        elif isinstance(node, dict):
            node[str(last) + "x"] = node.pop(last)
    return row


@settings(
    max_examples=EXAMPLES, deadline=None, phases=[Phase.generate], derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(seed=st.integers(0, 2**32 - 1), golden=st.sampled_from(GOLDEN))
def test_mutated_rows_are_used_as_they_are_or_named(tmp_path, seed, golden):
    name, good = golden
    rng = random.Random(seed)
    rows = [mutated(good, rng) for _ in range(ROWS)]
    path = write_json(tmp_path / "rows.json", [good, *rows])
    lines = read_rows(path)
    try:
        pairs = FilePairs(lines, range(len(lines)), name, max_bad_fraction=1.0)
    except TooManyRejected as error:  # an address, or one id with two contents
        rejected = error.rejected
        assert any(row.code in FATAL for row in rejected)
        pairs = None
    else:
        rejected = pairs.ledger.rejected
    for row in rejected:
        assert row.line > 1
        assert row.field
        assert row.code.isupper()
        assert len(row.detail.splitlines()) == 1
    assert len({row.line for row in rejected}) == len(rejected)
    if pairs is None:
        return
    assert pairs.ledger.read == ROWS + 1 == len(pairs) + len(rejected)
    used = iter(range(len(pairs)))
    for line, row in enumerate([good, *rows], start=1):
        if line not in {r.line for r in rejected}:
            pair = pairs[next(used)]
            said = json.dumps(row, ensure_ascii=False) + str(row.get("text"))
            # every text of a used row stands in the row itself, tags of images aside
            for text in (pair.chosen, pair.rejected, *(t for _, t in pair.history)):
                assert all(inside(part, said) for part in text.split("\n"))
            assert len(pair.images) == len(pair.rejected_images)
            assert 0 <= pair.weight < float("inf")


def inside(text, said):
    return json.dumps(text, ensure_ascii=False)[1:-1] in said or text in said


def test_format_is_said_or_named_for_mutated_files(tmp_path):
    rng = random.Random(0)
    for _ in range(30):
        rows = [mutated(rng.choice(GOLDEN)[1], rng) for _ in range(3)]
        lines = read_rows(write_json(tmp_path / "rows.json", rows))
        try:
            FilePairs(lines, range(len(lines)), max_bad_fraction=1.0)
        except InputError as error:
            assert "rows.json" in str(error)
