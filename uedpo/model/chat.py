"""A model's own chat template: where an answer begins, what ends it, and the tokens of both.

The ids of a conversation are those of the text that the template writes, encoded whole: a tokenizer that is
given an answer by itself may begin it with a token that generating never makes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from uedpo.errors import InputError

Turn = Mapping[str, Any]

# what processors say of each token, beside ids and mask
TOKEN_TYPES = ("mm_token_type_ids", "token_type_ids")
# in the place of an answer; what their conversations have in common is what an answer is asked with
PROBES = ("zebra", "A", "The", "Yes", "No", "In", "I", "yes", "no", "1")
SHOWN = 60  # characters of a text in a message


class Response(NamedTuple):
    """The tokens of an answer in its conversation.

    Attributes:
        swallowed: how many of the last tokens of the context are part of its first one (":" of ":)").
        ids: with its end of turn.
        rest: ids that the template writes behind the end of turn.
    """

    swallowed: int
    ids: list[int]
    rest: list[int]


class Rendered(NamedTuple):
    """A conversation and answers to it.

    Attributes:
        probe: text of the conversation with an answer that stands for any.
        behind: ids of `probe` behind the context.
        context: ids before the answer, image placeholders not expanded; what `generate` asks with.
        responses: of each answer.
    """

    probe: str
    behind: list[int]
    context: list[int]
    responses: list[Response]


class AnswerFrame:
    """How a chat template and its tokenizer write an answer.

    Args:
        processor: of the model.

    Attributes:
        ends: whether the template writes an end of turn.
        end: id of the token that ends a turn; the tokenizer's end token where the template writes none.

    Raises:
        InputError: the template does not write an answer where it asks for one.
    """

    def __init__(self, processor: Any) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        self._starts, self._appended = _added(self.tokenizer)
        turns, probe = user_turn("a", with_image=False), PROBES[0]
        prompt = self._written(turns, asks=True)
        whole = self._written([*turns, _answer(probe)])
        before, found, self._after = whole.rpartition(probe)
        if not found or not before.startswith(prompt):
            raise InputError(
                f"the chat template asks for an answer with {_tail(prompt)} and writes one as "
                f"{_tail(whole)}: what is trained would not be what is asked; use a template whose "
                "generation prompt begins the answer's turn (chat_template.jinja)"
            )
        opened = re.search(r"<(\w+)>\s*\Z", prompt) or re.search(r"</(\w+)>\s*\Z", before)
        self._block = f"</{opened[1]}>" if opened else ""
        kept, self.end = _end_of_turn(self.tokenizer, self._after)
        self.ends = bool(kept)
        first, *others = encoded = self._encode([self.conversation(turns, p)[0] for p in PROBES])
        self._num_rest = len(first) - len(self._encode([before + probe + kept])[0])
        shared, self._second = min((_common(first, o), p) for o, p in zip(others, PROBES[1:], strict=True))
        # a vocabulary may not know all of them
        said = [
            str(self.tokenizer.decode(ids[shared:])).partition(p)
            for p, ids in zip(PROBES, encoded, strict=True)
        ]
        self._swallowed = next((start.strip() for start, there, _ in said if there), "")

    def conversation(self, turns: Sequence[Turn], answer: str) -> tuple[str, int]:
        """(the conversation as the template writes it; characters before the answer).

        White space around the answer is left out, and what the template writes behind it that is no end of
        turn: the end token follows.

        Raises:
            InputError: the template refuses the turns, or writes another answer.
        """
        answer = answer.strip()
        whole = self._written([*turns, _answer(answer)])
        start = len(whole) - len(self._after) - len(answer)
        if whole[max(start, 0) :] != answer + self._after:
            raise InputError(
                f"the chat template writes this answer otherwise: it ends in {_tail(whole)}, the answer in "
                f"{_tail(answer)}"
            )
        if self._block and self._block in answer and whole[:start].rstrip().endswith(self._block):
            raise InputError(
                f"the answer brings a block that ends in {self._block}, and the chat template writes one "
                "before it; take the block out of the answer"
            )
        return whole if self.ends else whole[: start + len(answer)], start

    def render(self, turns: Sequence[Turn], answers: Sequence[str]) -> Rendered:
        """The ids of a conversation with each of `answers`; raises as `conversation` does."""
        texts = [self.conversation(turns, answer)[0] for answer in (PROBES[0], self._second, *answers)]
        ids = self._encode(texts)
        context = ids[0][: _common(ids[0], ids[1])]
        responses = []
        for own in ids[2:]:
            start, stop = _common(context, own), len(own) - self._num_rest
            end = [] if self.ends else [self.end]
            responses.append(Response(len(context) - start, own[start:stop] + end, own[stop:]))
        return Rendered(texts[0], ids[0][len(context) :], context, responses)

    def spans(self, turns: Sequence[Turn], answer: str) -> list[tuple[int, int]]:
        """The characters of the answer, without white space around it, that each token of a response has.

        Tokens of the end of turn have none.

        Raises:
            InputError: the tokenizer does not say which characters a token has; see `conversation`.
        """
        if not self.tokenizer.is_fast:
            raise InputError(
                f"{type(self.tokenizer).__name__} does not say which characters a token has; use the fast "
                "tokenizer of the model"
            )
        text, start = self.conversation(turns, answer)
        length = len(answer.strip())
        rendered = self.render(turns, [answer])
        offsets = self.tokenizer(text, return_offsets_mapping=True, **self.options(text))["offset_mapping"]
        first = len(rendered.context) - rendered.responses[0].swallowed
        own = [*offsets[first:], (0, 0)][: len(rendered.responses[0].ids)]
        inside = [(min(max(a - start, 0), length), min(max(b - start, 0), length)) for a, b in own]
        return [(a, b) if b > a else (length, length) for a, b in inside]

    def options(self, text: str) -> dict[str, bool]:
        """Of the tokenizer: none, or no start token where the template wrote one already."""
        return {"add_special_tokens": False} if self._starts and text.startswith(self._starts) else {}

    def context(self, rendered: Rendered, ids: Sequence[int]) -> list[int]:
        """What comes before the answer of the ids that the processor makes of `rendered.probe`.

        Raises:
            InputError: the processor writes another text.
        """
        appended = self._num_appended(rendered.probe)
        own = list(ids[: len(ids) - appended])
        if own[-len(rendered.behind) :] != rendered.behind:
            raise InputError(
                f"the processor encodes the end of a conversation as "
                f"{self.tokenizer.decode(own[-len(rendered.behind) :])!r}, its tokenizer as "
                f"{self.tokenizer.decode(rendered.behind)!r}; use the processor of the model"
            )
        return own[: len(own) - len(rendered.behind)]

    def answer(self, ids: Any) -> str:
        """The text of ids that a model generated after a context."""
        text = str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()
        return text.removeprefix(self._swallowed).strip()

    def _written(self, turns: Sequence[Turn], asks: bool = False) -> str:
        try:
            return str(self.processor.apply_chat_template(list(turns), add_generation_prompt=asks))
        except Exception as error:  # jinja's, raised by the template itself
            name, reason = type(error).__name__, " ".join(str(error).split())[:120]
            kind = (
                "" if name == "TemplateError" else f"{name}: "
            )  # else the template says so in its own words
            raise InputError(f"the chat template refuses these turns ({kind}{reason})") from None

    def _encode(self, texts: list[str]) -> list[list[int]]:
        options = self.options(texts[0])
        made = self.tokenizer(texts, **options)["input_ids"]
        return [list(ids[: len(ids) - self._num_appended(texts[0])]) for ids in made]

    def _num_appended(self, text: str) -> int:
        return 0 if self.options(text) else self._appended


def user_turn(text: str, with_image: bool = True) -> list[Turn]:
    """A conversation of one question."""
    content: list[dict[str, str]] = [{"type": "image"}] if with_image else []
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def _answer(text: str) -> Turn:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def _end_of_turn(tokenizer: Any, after: str) -> tuple[str, int]:
    """(the part of the text after an answer that ends its turn, id of its last token)."""
    special = {str(t): i for i, t in getattr(tokenizer, "added_tokens_decoder", {}).items() if t.special}
    bare = after.lstrip()
    ends = [t for t in special if bare.startswith(t)]
    if not ends:
        return "", int(tokenizer.eos_token_id)
    end = max(ends, key=len)
    return after[: len(after) - len(bare) + len(end)], int(special[end])


def _added(tokenizer: Any) -> tuple[str, int]:
    """(text of the tokens that a tokenizer puts before a text, number of those that it puts behind)."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    for i in range(len(full) - len(bare) + 1):
        if full[i : i + len(bare)] == bare:
            starts = "".join(tokenizer.convert_ids_to_tokens(full[:i])) if i else ""
            return starts, len(full) - i - len(bare)
    return "", 0


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two lists begin with alike."""
    for i, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return i
    return min(len(one), len(other))


def _tail(text: str) -> str:
    return repr(text if len(text) <= SHOWN else "..." + text[-SHOWN:])
