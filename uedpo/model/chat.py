"""A model's own chat template: one user turn, where an answer begins, and what ends it."""

from __future__ import annotations

from typing import Any, NamedTuple


class AnswerFrame(NamedTuple):
    """What surrounds an answer in a conversation.

    Attributes:
        lead: text before the answer: a space where the prompt ends in a letter or colon ("ASSISTANT:").
        end: id of the token that ends a turn.
    """

    lead: str
    end: int


def chat_prompt(processor: Any, text: str, with_image: bool = True) -> str:
    """The processor's own chat template around one user turn, ready for an answer."""
    content: list[dict[str, str]] = [{"type": "image"}] if with_image else []
    content.append({"type": "text", "text": text})
    return str(
        processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    )


def no_second_start(processor: Any, text: str) -> dict[str, bool]:
    """Options for the tokenizer: none, or no start token where the template wrote one already."""
    start = getattr(processor.tokenizer, "bos_token", None)
    return {"add_special_tokens": False} if start and text.startswith(start) else {}


def answer_frame(processor: Any) -> AnswerFrame:
    """How the chat template writes an answer; the tokenizer's end token where it writes no end of turn."""
    tokenizer = processor.tokenizer
    prompt = chat_prompt(processor, "a", with_image=False)
    special = {str(t): i for i, t in getattr(tokenizer, "added_tokens_decoder", {}).items() if t.special}
    glued = prompt[-1:].isspace() or any(prompt.endswith(t) for t in special)
    answer = "zebra"
    turns = [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in (("user", "a"), ("assistant", answer))
    ]
    after = str(processor.apply_chat_template(turns, add_generation_prompt=False)).partition(answer)[2]
    ends = [t for t in special if after.lstrip().startswith(t)]
    end = special[max(ends, key=len)] if ends else tokenizer.eos_token_id
    return AnswerFrame("" if glued else " ", int(end))
