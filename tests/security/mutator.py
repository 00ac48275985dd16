"""Malformed inputs from a seed: rows, pictures and configurations, each with what it broke."""

import json
import random

GOOD = {"image": "a.png", "prompt": "What is it?", "chosen": "A red cow.", "rejected": "A blue pig."}
KEYS = tuple(GOOD)
ODD = [
    None, True, 0, -1, 3.5, 1e308, 10**40, "", " ", "\t\n", "\u200b", "\ud800", [], {}, [None], {"a": 1},
    "<image>", "<IMAGE> x", "x" * 2_000_000, [[[[]]]], "null", "\x00", "http://127.0.0.1:9/x",
    "../../etc/passwd", "/etc/passwd", "a.png\x00", "file:///etc/passwd",
    float("nan"), float("inf"), float("-inf"),
]  # fmt: skip


def bad_row(rng: random.Random) -> tuple[bytes, str]:
    """(one line of a JSONL file, the field that was touched; "row" where the line itself was)."""
    row = dict(GOOD)
    key = rng.choice(KEYS)
    kind = rng.randrange(9)
    if kind == 0:
        row[key] = rng.choice(ODD)
    elif kind == 1:
        del row[key]
    elif kind == 2:
        row = {(k[:-1] if k == key else k): v for k, v in row.items()}
    elif kind == 3:
        key = rng.choice(["id", "negatives", "similarity"])
        row[key] = rng.choice([o for o in ODD if o is not None])
    elif kind == 4:
        row["rejected"], key = rng.choice([" ", "\n", ""]) + row["chosen"] + " ", "rejected"
    line = json.dumps(row).encode()
    if kind == 5:
        line, key = line[: rng.randrange(1, len(line))], "row"
    elif kind == 6:
        line, key = _flipped(line, rng), "any"
    elif kind == 7:
        line, key = (
            bytes(rng.randrange(256) for _ in range(rng.randrange(1, 200))).replace(b"\n", b" "),
            "row",
        )
    elif kind == 8:
        wide = line.decode().encode("utf-16-le").replace(b"\n", b" ")
        whole = [b"[" * 5000, b'"a"', b"1", b"null", b"{}", line + line, b"NaN", b"\xef\xbb\xbf" + line, wide]
        line, key = rng.choice(whole), "any"
    return line, key


def bad_picture(rng: random.Random, whole: list[bytes]) -> bytes:
    """A picture of one of the formats, cut, flipped, filled up, spliced, or nothing of the kind."""
    data = rng.choice(whole)
    kind = rng.randrange(5)
    if kind == 0:
        return data[: rng.randrange(len(data))]
    if kind == 1:
        return _flipped(data, rng, 64)  # the header
    if kind == 2:
        return _flipped(data, rng)
    if kind == 3:
        other = rng.choice(whole)
        return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]
    return bytes(rng.randrange(256) for _ in range(rng.randrange(300)))


def _flipped(data: bytes, rng: random.Random, within: int | None = None) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 9)):
        at = rng.randrange(min(within or len(data), len(data)))
        changed[at] = rng.choice([b for b in range(256) if b != 10])
    return bytes(changed)


def bad_config(rng: random.Random, leaves: list[str]) -> tuple[str, object]:
    """(dotted key, value) to set in a configuration that is valid otherwise."""
    key = rng.choice(leaves)
    if rng.randrange(3) == 0:  # a typo
        at = rng.randrange(len(key))
        key = key[:at] + rng.choice("xyz_") + key[at + (rng.randrange(2)) :]
        return key, 1
    strings = ["nan", "os.system", "${no.such}", "${x:y}", -5]
    return key, rng.choice([*(o for o in ODD if not isinstance(o, str) or len(o) < 1000), *strings])
