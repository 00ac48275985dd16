"""What the conversational formats share: turns, and where images stand in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from uedpo.data.fields import check_text, image_list, kind
from uedpo.data.rejects import RowProblem

TAG = "<image>"
ROLES = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
FIELDS = ("role", "from", "content", "value")  # of a turn
BLOCK = ("type", "index")  # of a block, beside its text
# columns that other programs give to the chat template, to the processor or to the loss
NOT_TAKEN = (
    "system", "system_prompt", "history", "tools", "functions", "tool_calls", "function_call", "documents",
    "chat_template_kwargs", "reasoning_content", "videos", "video", "audios", "audio", "objects",
    "rejected_videos", "rejected_audios", "weight", "chosen_weights", "rejected_weights", "rejected_images",
)  # fmt: skip
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
    for name in value:
        if name not in FIELDS and not _empty(value[name]):
            raise RowProblem(
                field, "NOT_TAKEN",
                f"has a turn with {str(name)[:40]!r}, which is not read here; remove it if the model is not "
                "to see it, else leave the row out",
            )  # fmt: skip
    said, content = one_of(value, "role", "from"), one_of(value, "content", "value")
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
    # the columns of a parquet file give every block the fields of all others, with null
    inside = {name: value for name, value in block.items() if name not in BLOCK and value is not None}
    what = block.get("type")
    if what not in ("text", "image"):
        raise RowProblem(
            field,
            "BAD_TYPE",
            f"has a block of type {str(what)[:40]!r}, neither text nor image; leave the row out",
        )
    if what == "text" and set(inside) == {"text"} and isinstance(inside["text"], str):
        return str(inside["text"])
    if what == "image" and not inside:
        return None
    unread = sorted(str(name)[:40] for name in inside if name != "text" or what == "image")
    if what == "image" and unread != ["text"]:
        raise RowProblem(
            field, "BAD_TYPE", f"holds an image inside a turn ({', '.join(unread)}); put it in images"
        )
    problem = f"with {', '.join(unread)}" if unread else "without a text"
    raise RowProblem(field, "BAD_TYPE", f"has a block of {what} {problem}; a block holds type and text alone")


def turns_of(field: str, value: object) -> list[Turn]:
    """A list of turns.

    Raises:
        RowProblem: see `turn`.
    """
    if not isinstance(value, list) or not value:
        raise RowProblem(field, "BAD_TYPE", f"must be a list of turns; this is {kind(value)}, or empty")
    turns = [turn(field, item) for item in value]
    blocks = [b for item in value if isinstance(item.get("content"), list) for b in item["content"]]
    numbers = [b["index"] for b in blocks if b["type"] == "image" and b.get("index") is not None]
    if numbers != list(range(len(numbers))):
        raise RowProblem(
            field, "IMAGE_COUNT", f"numbers its images {numbers[:8]}; put them in order, the first is 0"
        )
    return turns


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
    there = [name for name in names if row.get(name) is not None and row[name] != []]
    if len(there) > 1:
        raise RowProblem(there[1], "TWICE", f"and {there[0]} are both there; keep one")
    return row[there[0]] if there else None


def refuse(row: Mapping[str, Any], read: Sequence[str]) -> None:
    """Reject a row with something in a column that changes what the model sees or what it learns from it.

    Args:
        read: columns that the row's format reads.

    Raises:
        RowProblem: naming the column.
    """
    for name in NOT_TAKEN:
        if name not in read and not _empty(row.get(name)):
            raise RowProblem(
                name, "NOT_TAKEN", "is not read in this format; drop the column, or leave the row out"
            )


def _empty(value: object) -> bool:
    return value is None or (isinstance(value, str | list | Mapping) and not value)


def system_turn(row: Mapping[str, Any]) -> list[Turn]:
    """What a row has in its column `system`, as a turn; none where that is empty."""
    if row.get("system") in (None, ""):
        return []
    return [("system", [check_text("system", row["system"])])]
