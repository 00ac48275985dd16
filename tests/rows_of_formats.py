"""One made-up pair in every format that is read, and how files of them are written."""

import copy
import json

from tests.unit.test_images import encoded, noise

PROMPT, CHOSEN, REJECTED = "What is on the table?", "A red mug.", "A blue phone."
TURN = {"role": "user", "content": "<image>\nWhat is on the table?"}
PICTURE = encoded(noise(), "PNG")


def answer(text, blocks=False):
    return [{"role": "assistant", "content": [{"type": "text", "text": text}] if blocks else text}]


BLOCKS = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}]
# format -> rows that all mean the same pair; paths of images
SAME = {
    "simple": [
        {"image": "a.png", "prompt": PROMPT, "chosen": CHOSEN, "rejected": REJECTED},
        {"images": ["a.png"], "prompt": f"<image>\n{PROMPT}", "chosen": CHOSEN, "rejected": REJECTED},
    ],
    "trl": [
        {"images": ["a.png"], "prompt": BLOCKS, "chosen": answer(CHOSEN, True),
         "rejected": answer(REJECTED, True)},
        {"image": "a.png", "prompt": [{"role": "user", "content": PROMPT}], "chosen": answer(CHOSEN),
         "rejected": answer(REJECTED), "tools": []},
        {"images": ["a.png"], "chosen": BLOCKS + answer(CHOSEN, True),
         "rejected": BLOCKS + answer(REJECTED, True)},
    ],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": f"<image>{PROMPT}"}], "images": ["a.png"],
         "chosen": {"from": "gpt", "value": CHOSEN}, "rejected": {"from": "gpt", "value": REJECTED}},
    ],
    "swift": [
        {"messages": [TURN, *answer(CHOSEN)], "images": ["a.png"], "rejected_response": REJECTED},
        {"messages": [TURN, *answer(CHOSEN)], "images": ["a.png"],
         "rejected_messages": [TURN, *answer(REJECTED)], "rejected_images": ["a.png"]},
    ],
    "rlhf_v": [
        {"image": "a.png", "text": {"question": PROMPT, "chosen": CHOSEN, "rejected": REJECTED}},
        {"image": "a.png", "text": json.dumps({"question": PROMPT, "chosen": CHOSEN, "rejected": REJECTED})},
    ],
    "rlaif_v": [
        {"image": "a.png", "question": PROMPT, "chosen": CHOSEN, "rejected": REJECTED, "idx": "7",
         "ds_name": "x"},
    ],
}  # fmt: skip
GOLDEN = [(name, row) for name, rows in SAME.items() for row in rows]


def write_json(path, rows):
    """One object a line, or an array where the name ends in .json."""
    noise().save(path.parent / "a.png")
    noise((20, 20)).save(path.parent / "b.png")
    text = json.dumps(rows) if path.suffix == ".json" else "\n".join(map(json.dumps, rows))
    path.write_text(text, encoding="utf-8")
    return str(path)


def write_parquet(path, rows):
    """Images as they are stored by `datasets`: bytes in a struct."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = copy.deepcopy(rows)
    for row in rows:
        for name in ("image", "images", "rejected_images"):
            if isinstance(row.get(name), str):
                row[name] = stored(row[name])
            elif name in row:
                row[name] = [stored(image) for image in row[name]]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def stored(name):
    picture = PICTURE if name == "a.png" else encoded(noise((20, 20)), "PNG")
    return {"bytes": picture, "path": "/etc/passwd"}
