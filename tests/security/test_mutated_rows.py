"""1,000 mutated rows of all formats: none crashes, each rejected one is named, nothing is replaced."""

import copy
import json
import random
from collections import Counter

from hypothesis import Phase, given, settings
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
FINE = [  # odd texts to train on
    'He said "no".',
    "日本語 🙂",
    "a\u2028b",
    "back\\slash \\n",
    "{'a': 1}",
    "e\u0301 a\u0300",
    " two  spaces ",
]
EXTRA = (
    "id", "weight", "chosen_weights", "rejected_weights", "rejected_image", "rejected_images", "images",
    "image", "system", "tools", "videos", "history", "image_at", "negatives", "similarity",
    "rejected_messages", "prompt",
)  # fmt: skip


def places(value, path=()):
    """Paths to everything inside a row."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def mutated(row, rng):
    """A copy with one to three things set, taken away, renamed or added, or texts written otherwise."""
    row = copy.deepcopy(row)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        there = list(places(row))
        kind = rng.randrange(5)
        if kind == 3 or not there:
            row[rng.choice(EXTRA)] = copy.deepcopy(rng.choice(SHORT + MORE))
            continue
        *path, last = rng.choice(there)
        node = row
        for key in path:
            node = node[key]
        if kind == 4 and isinstance(node[last], str) and " " in node[last]:
            node[last] = rng.choice(FINE)
        elif kind == 0:
            node[last] = copy.deepcopy(rng.choice(SHORT + MORE))
        elif kind == 1:
            del node[last]
        elif isinstance(node, dict):
            node[str(last) + "x"] = node.pop(last)
    return row


def test_mutated_rows_are_used_as_they_are_or_named(tmp_path):
    counts = Counter()

    @settings(max_examples=EXAMPLES, deadline=None, phases=[Phase.generate], derandomize=True)
    @given(seed=st.integers(0, 2**32 - 1), golden=st.sampled_from(GOLDEN))
    def run(seed, golden):
        name, good = golden
        rng = random.Random(seed)
        rows = [mutated(good, rng) for _ in range(ROWS)]
        pairs, fatal = read([good, *rows], name, tmp_path)
        counts.update(rows=ROWS, used=len(pairs) - 1, fatal=len(fatal), rejected=len(pairs.ledger.rejected))
        counts.update(row.code for row in [*fatal, *pairs.ledger.rejected])

    run()
    print(dict(counts))
    assert counts["rows"] == 1000 == counts["used"] + counts["rejected"] + counts["fatal"]
    assert min(counts["used"], counts["rejected"]) > 100
    assert sum(code.isupper() for code in counts) > 10


def read(rows, name, folder):
    """(pairs of the rows, those rejected that stop any run, taken out); checks both."""
    fatal = []
    while True:
        lines = read_rows(write_json(folder / "rows.json", rows))
        try:
            pairs = FilePairs(lines, range(len(lines)), name, max_bad_fraction=1.0)
            break
        except TooManyRejected as error:  # an address, or one id with two contents
            found = [row for row in error.rejected if row.code in FATAL]
        assert found
        fatal += found
        rows = [row for line, row in enumerate(rows, start=1) if line not in {r.line for r in found}]
    rejected = {row.line: row for row in pairs.ledger.rejected}
    for row in [*fatal, *rejected.values()]:
        assert row.line > 1
        assert row.field
        assert len(row.detail.splitlines()) == 1
    assert len(rejected) == len(pairs.ledger.rejected)
    kept = [row for line, row in enumerate(rows, start=1) if line not in rejected]
    for row, pair in zip(kept, pairs, strict=True):
        stands_in(row, pair)
    return pairs, fatal


def stands_in(row, pair):
    """What a pair says is what its row says, tags of images aside."""
    said = json.dumps(row, ensure_ascii=False) + str(row.get("text"))
    texts = [pair.chosen, pair.rejected, *(text for _, text in pair.history)]
    texts += [pair.prompt] if not pair.image_at else []
    for text in texts:
        assert all(inside(part, said) for part in text.split("\n")), text
    assert len(pair.images) == len(pair.rejected_images)
    assert len(pair.images) == json.dumps([row.get(k) for k in ("image", "images")]).count(".png")
    assert 0 <= pair.weight < float("inf")


def inside(text, said):
    return json.dumps(text, ensure_ascii=False)[1:-1] in said or text in said


def test_files_of_mutated_rows_are_read_or_refused_in_one_message(tmp_path):
    rng, refused = random.Random(0), 0
    for _ in range(20):
        rows = [mutated(rng.choice(GOLDEN)[1], rng) for _ in range(3)]
        lines = read_rows(write_json(tmp_path / "rows.json", rows))
        try:
            FilePairs(lines, range(len(lines)), max_bad_fraction=1.0)
        except InputError as problem:
            refused += "rows.json" in str(problem)
    assert 0 < refused < 20
