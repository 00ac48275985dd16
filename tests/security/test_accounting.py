"""Rows read = used + rejected, and nothing stands in for a row."""

import json
import random
import sys

from tests.security.mutator import GOOD, bad_row
from tests.unit.test_images import noise
from tests.unit.test_rows import write
from uedpo.data.jsonl import JsonlPairs
from uedpo.data.rejects import FATAL, TooManyRejected


def test_every_row_is_used_or_rejected(tmp_path):
    noise().save(tmp_path / "a.png")
    rng, stopped = random.Random(4), 0
    for _ in range(100):
        lines = []
        for i in range(rng.randrange(20, 50)):
            good = json.dumps(GOOD | {"id": f"r{i}", "chosen": f"Cow {i}."}).encode()
            lines.append(bad_row(rng)[0] if rng.random() < 0.3 else rng.choice([good, good, b"", b" "]))
        lines.append(json.dumps(GOOD | {"id": "last"}).encode())
        file = write(tmp_path / "rows.jsonl", *lines)
        present = {n: line for n, line in enumerate(lines, start=1) if line.strip()}
        pairs = loaded(file)
        if pairs is None:
            stopped += 1
            continue
        ledger, lost = pairs.ledger, {r.line for r in pairs.ledger.rejected}
        assert ledger.read == len(present) == len(pairs) + len(ledger.rejected)
        assert len(lost) == len(ledger.rejected)
        assert lost.isdisjoint(pairs.lines)
        assert lost | set(pairs.lines) == set(present)
        for line, pair in zip(pairs.lines, pairs.rows, strict=True):
            row = json.loads(present[line].removeprefix(b"\xef\xbb\xbf"))
            assert (pair.prompt, pair.chosen, pair.rejected) == tuple(row[k] for k in list(GOOD)[1:])
    assert stopped < 40


def loaded(file):
    """None where a row stops the run under any ceiling."""
    try:
        return JsonlPairs(file, max_bad_fraction=1.0)
    except TooManyRejected as error:
        if not any(r.code in FATAL for r in error.rejected):
            raise
        return None


def test_one_bad_row_in_a_thousand_costs_nothing(tmp_path):
    rows = [GOOD | {"image": None, "id": f"r{i}", "chosen": f"Cow {i}."} for i in range(1_000)]
    clean = write(tmp_path / "clean.jsonl", *rows)
    bad = write(tmp_path / "bad.jsonl", *[*rows[:500], b"{", *rows[501:]])

    def calls(file):  # what time is made of, but the same on every machine
        count = 0

        def one_more(frame, event, argument):
            nonlocal count
            count += event in ("call", "c_call")

        sys.setprofile(one_more)
        try:
            JsonlPairs(file, max_bad_fraction=0.01)
        finally:
            sys.setprofile(None)
        return count

    calls(clean)  # first use of what is imported late
    ratio = calls(bad) / calls(clean)
    print(f"calls with one bad row of 1,000: {ratio:.4f} of those without")
    assert ratio <= 1.01
