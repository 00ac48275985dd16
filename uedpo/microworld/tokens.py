"""Ground truth of response tokens: what each names, whether it is right, and how large its object is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from uedpo.microworld.grammar import SIZE_WORDS
from uedpo.microworld.scene import COLOURS, Scene, make_scene
from uedpo.microworld.truth import NOUNS, judge, read, token_classes
from uedpo.types import PreferencePair

_CATEGORIES = {word: category for word, (category, _) in NOUNS.items()}
_COLOURS = {colour: colour for colour in COLOURS}
_SIZES = {word: size for size, words in SIZE_WORDS.items() for word in words}


@dataclass(frozen=True)
class TokenTruth:
    """One token.

    Attributes:
        kind: its class, one of `TOKEN_CLASSES`.
        right: whether its word is true of the scene; None where it claims nothing.
        size: "large", "medium" or "small" for words of an object that is there, else "".
        word: the word it begins, in lower case; "" for later tokens of a word and the end token.
    """

    kind: str
    right: bool | None
    size: str
    word: str


def scene_of(pair: PreferencePair) -> Scene:
    """The scene a micro-world pair's image was drawn from."""
    split, index = pair.id.rsplit("-", 1)
    return make_scene(split, int(index))


def token_truth(text: str, scene: Scene, spans: Sequence[tuple[int, int]]) -> list[TokenTruth]:
    """Truth of each token of a response.

    Args:
        spans: the characters of `text.strip()` that each token has; the last is the end token.
    """
    text = text.strip()
    reading = judge(read(text), scene)
    spans = [*spans[:-1], (0, 0)]
    sizes = {}
    for mention in reading.mentions:
        item = scene.find(mention.category)
        for i in (mention.noun, *mention.attributes):
            sizes[reading.words[i].start] = item.size if item else ""
    result = []
    for (start, end), (kind, right) in zip(spans, token_classes(reading, spans), strict=True):
        word = next((w for w in reading.words if w.start < end and w.end > start), None)
        begins = word is not None and start <= word.start
        size = sizes.get(word.start, "") if word else ""
        result.append(TokenTruth(kind, right, size, word.text if word and begins else ""))
    return result


def contradicts(guess: str, word: str) -> bool:
    """Whether a token begins another object, colour or size than `word`; synonyms do not contradict.

    Args:
        guess: text of one token, e.g. the model's own at the place of `word`.
        word: a noun, a colour or a size.
    """
    text = guess.strip().lower()
    for meanings in (_CATEGORIES, _COLOURS, _SIZES):
        if word in meanings:
            named = {meaning for name, meaning in meanings.items() if text and name.startswith(text)}
            return bool(named) and meanings[word] not in named
    return False
