"""What only the model's tokenizer tells of a row: control tokens in a text, and lengths."""

from __future__ import annotations

import re
from typing import Any

from uedpo.data.prompts import pair_turns
from uedpo.data.rejects import Ledger, RowProblem
from uedpo.errors import InputError
from uedpo.model.chat import AnswerFrame, Turn
from uedpo.types import PreferencePair

# tokenizers without a limit say 1e30
_NO_LIMIT = 10**9
FRAME_TOKENS = 4  # that a response may have beside those of its text: white space before it, its end of turn


class TextRules:
    """Checks the texts of a pair against a processor.

    Args:
        processor: of the model.
        max_response_tokens: longest response kept, end token included.
        negatives: further negatives are trained on, so every row needs as many as the first.
        ledger: counts responses that lose their tail.
    """

    def __init__(self, processor: Any, max_response_tokens: int, negatives: bool, ledger: Ledger) -> None:
        self.tokenizer, self.max_tokens = processor.tokenizer, max_response_tokens
        self.frame = AnswerFrame(processor)
        self.needs_negatives, self.num_negatives = negatives, 0
        self.ledger = ledger
        self.control = re.compile("|".join(re.escape(t) for t in control_tokens(processor)))
        self.max_prompt = token_limit(self.tokenizer)

    def __call__(self, pair: PreferencePair) -> None:
        """Count what is cut.

        Raises:
            RowProblem: the row cannot be used with this model.
        """
        responses = {"chosen": pair.chosen, "rejected": pair.rejected}
        for field, text in {"prompt": pair.prompt, **responses}.items():
            self._no_control(field, text)
        for _, text in pair.history:
            self._no_control("history", text)
        if self.needs_negatives:
            self._negatives(pair)
        if self._longer("".join([*(text for _, text in pair.history), pair.prompt]), self.max_prompt):
            raise RowProblem(
                "prompt",
                "PROMPT_TOO_LONG",
                f"has over {self.max_prompt} tokens, the model's limit; shorten it",
            )
        turns = pair_turns(pair)
        self._written(pair, turns)
        if all(len(text.encode()) + FRAME_TOKENS <= self.max_tokens for text in responses.values()):
            return  # a token covers a byte at least, so most texts need no tokenizer to be known as short
        answers = [response.ids for response in self.frame.render(turns, list(responses.values())).responses]
        cut = [ids[: self.max_tokens] for ids in answers if len(ids) > self.max_tokens]
        if len(cut) == 2 and pair.rejected_image is None and cut[0] == cut[1]:
            raise RowProblem(
                "rejected", "IDENTICAL_AFTER_CUT",
                f"and chosen are the same in their first {self.max_tokens} tokens; "
                "raise data.max_response_tokens",
            )  # fmt: skip
        self.ledger.cut += len(cut)

    def _no_control(self, field: str, text: str) -> None:
        found = self.control.search(text)
        if found:
            raise RowProblem(
                field, "CONTROL_TOKEN", f"holds {found[0]!r}, a control token of the model; remove it"
            )

    def _written(self, pair: PreferencePair, turns: list[Turn]) -> None:
        """Some templates refuse a system turn, leave out what they do not know, or write another answer."""
        others = pair.negatives if self.needs_negatives else ()
        answers = [("chosen", pair.chosen), ("rejected", pair.rejected), *(("negatives", n) for n in others)]
        for field, text in answers:
            try:
                written, _ = self.frame.conversation(turns, text)
            except InputError as error:
                where = "history" if pair.history and "refuses" in str(error) else field
                raise RowProblem(where, "TEMPLATE", f"does not go: {error}; drop the row") from None
            # templates may strip the text of a turn
            if not all(said.strip() in written for _, said in pair.history):
                raise RowProblem(
                    "history", "TEMPLATE", "does not go: the chat template leaves a turn out; drop the row"
                )

    def _negatives(self, pair: PreferencePair) -> None:
        self.num_negatives = self.num_negatives or len(pair.negatives)
        if not pair.negatives or len(pair.negatives) != self.num_negatives:
            needed = self.num_negatives or "some"
            raise RowProblem(
                "negatives",
                "NEGATIVES",
                f"has {len(pair.negatives)} texts, every row needs {needed}; add them, or set "
                "data.negatives=false",
            )
        for text in pair.negatives:
            self._no_control("negatives", text)

    def _longer(self, text: str, limit: int) -> bool:
        return (
            len(text.encode()) > limit
            and len(self.tokenizer(text, add_special_tokens=False)["input_ids"]) > limit
        )


def control_tokens(processor: Any) -> list[str]:
    """Texts that the tokenizer reads as control or image tokens, the longest first."""
    tokenizer = processor.tokenizer
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    tokens = {str(token) for token in added if token.special} | set(tokenizer.all_special_tokens)
    tokens |= {
        t for t in (getattr(processor, "image_token", None), getattr(processor, "video_token", None)) if t
    }
    return sorted((t for t in tokens if t.strip()), key=lambda t: (-len(t), t))


def token_limit(tokenizer: Any) -> int:
    """Longest sequence the tokenizer admits to, in tokens."""
    limit = int(min(getattr(tokenizer, "model_max_length", _NO_LIMIT), _NO_LIMIT))
    return limit if limit > 0 else _NO_LIMIT
