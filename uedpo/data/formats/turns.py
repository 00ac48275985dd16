"""What the conversational formats share: turns, and where images stand in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from uedpo.data.fields import check_text, image_list, kind
from uedpo.data.rejects import RowProblem

TAG = "<image>"
ROLES = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
# a turn: its role, and its texts with None where an image stands
Turn = tuple[str, list[str | None]]


def conversation(turns: Sequence[Turn], images: object) -> dict[str, Any]:
    """The prompt of a row: what comes before the answers, as `uedpo.data.fields.check_row` takes it.

    Images that no turn places stand before the first user turn.

    Args:
        images: value of the column.

    Raises:
        RowProblem: the last turn is not the user's, or turns place another number of images than there are.
    """
    if not turns or turns[-1][0] != "user":
        raise RowProblem(
            "prompt", "TURNS", "must end with a turn of the user; the answers have their own columns"
        )
    places, texts = [], []
    for number, (role, parts) in enumerate(turns):
        text = ""
        for part in parts:
            if part is None:
                places.append((number, len(text)))
            else:
                text += part
        texts.append((role, text))
    found = len(image_list("image", images))
    if places and not found:
        raise RowProblem("prompt", "PLACEHOLDER", f"holds {TAG!r}, and the row has no image; remove it")
    if places and len(places) != found:
        raise RowProblem(
            "prompt", "IMAGE_COUNT",
            f"places {len(places)} images ({TAG}), the row has {found}; make them as many, or place none",
        )  # fmt: skip
    first = next(number for number, (role, _) in enumerate(turns) if role == "user")
    usual = all(place == (first, 0) for place in places)
    return {
        "image": images,
        "prompt": texts[-1][1],
        "history": tuple(texts[:-1]),
        "image_at": () if usual else tuple(places),
    }


def turn(field: str, value: object) -> Turn:
    """One turn, {role, content} or {from, value}; content is a text with `TAG`s, or a list of blocks.

    Raises:
        RowProblem: it is none of these.
    """
    if not isinstance(value, Mapping):
        raise RowProblem(field, "BAD_TYPE", f"must hold turns, as {{role, content}}; one is {kind(value)}")
    said, content = value.get("role", value.get("from")), value.get("content", value.get("value"))
    role = ROLES.get(said) if isinstance(said, str) else None
    if role is None:
        raise RowProblem(field, "ROLE", f"has a turn of {str(said)[:40]!r}; taken are {', '.join(ROLES)}")
    if isinstance(content, str):
        return role, tagged(content)
    if not isinstance(content, list):
        raise RowProblem(field, "BAD_TYPE", f"must have a text or a list as content; one is {kind(content)}")
    return role, [_block(field, block) for block in content]


def _block(field: str, block: object) -> str | None:
    if not isinstance(block, Mapping):
        raise RowProblem(field, "BAD_TYPE", f"must hold blocks, as {{type, text}}; one is {kind(block)}")
    inside = {name: value for name, value in block.items() if name != "type" and value is not None}
    if block.get("type") == "text" and isinstance(inside.get("text"), str):
        return str(inside["text"])
    if block.get("type") != "image":
        raise RowProblem(field, "BAD_TYPE", "has a block that is neither text nor image; leave the row out")
    if inside:
        raise RowProblem(field, "BAD_TYPE", "holds an image inside a turn; put it in images")
    return None


def turns_of(field: str, value: object) -> list[Turn]:
    """A list of turns.

    Raises:
        RowProblem: see `turn`.
    """
    if not isinstance(value, list) or not value:
        raise RowProblem(field, "BAD_TYPE", f"must be a list of turns; this is {kind(value)}, or empty")
    return [turn(field, item) for item in value]


def answer(field: str, one: Turn) -> str:
    """The text of a response.

    Raises:
        RowProblem: it is not the assistant's, or holds an image.
    """
    role, parts = one
    if role != "assistant":
        raise RowProblem(field, "ROLE", f"must be a turn of the assistant; this is one of the {role}")
    if None in parts:
        raise RowProblem(field, "PLACEHOLDER", f"holds an image ({TAG}); images go in the prompt")
    return "".join(part for part in parts if part is not None)


def tagged(text: str) -> list[str | None]:
    """Texts with None where a tag stands; newlines between tags at an end and the text belong to the tags."""
    pieces = text.split(TAG)
    if len(pieces) == 1:
        return [text]
    for i in range(1, len(pieces)):  # from the front, up to the first text
        if pieces[i - 1]:
            break
        pieces[i] = pieces[i].lstrip("\n")
    for i in range(len(pieces) - 2, -1, -1):  # from the back
        if pieces[i + 1]:
            break
        pieces[i] = pieces[i].rstrip("\n")
    parts: list[str | None] = [pieces[0]]
    for piece in pieces[1:]:
        parts += [None, piece]
    return parts


def one_of(row: Mapping[str, Any], *names: str) -> Any:
    """The value of the only one of `names` that a row has; None for none.

    Raises:
        RowProblem: it has two.
    """
    there = [name for name in names if row.get(name) not in (None, [])]
    if len(there) > 1:
        raise RowProblem(there[1], "TWICE", f"and {there[0]} are both there; keep one")
    return row[there[0]] if there else None


def refuse(row: Mapping[str, Any], names: Sequence[str]) -> None:
    """Reject a row with something in a column that changes what the model sees and is not taken here.

    Raises:
        RowProblem: naming the column.
    """
    for name in names:
        if row.get(name):
            raise RowProblem(
                name, "NOT_TAKEN", "is not taken here, only texts and images are; leave the row out"
            )


def system_turn(row: Mapping[str, Any]) -> list[Turn]:
    """What a row has in its column `system`, as a turn; none where that is empty."""
    if row.get("system") in (None, ""):
        return []
    return [("system", [check_text("system", row["system"])])]
