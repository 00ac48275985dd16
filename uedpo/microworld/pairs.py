"""Preference pairs: the model's own hallucinated caption, and its segment-level correction.

As in RLHF-V, only what is wrong is rewritten: the noun phrase of an object that is not there
becomes that of one the caption left out; everything else stays. (Pairs whose repair is to cut a
sentence mostly teach brevity, so they are not made.)
"""

from __future__ import annotations

import itertools

import numpy as np

from uedpo.microworld.grammar import noun_phrase, sentence
from uedpo.microworld.scene import Item, Scene
from uedpo.microworld.truth import (
    FUNCTION,
    OBJECT,
    Mention,
    Reading,
    judge,
    position_holds,
    read,
    relation_holds,
)

_FAR_WORDS = ("background", "far", "behind", "distance", "further", "hidden")
_SWAP = {
    "left": "right",
    "right": "left",
    "top": "bottom",
    "bottom": "top",
    "upper": "lower",
    "lower": "upper",
}
_BY_WORD = {
    "left": "left",
    "right": "right",
    "top": "top",
    "upper": "top",
    "bottom": "bottom",
    "lower": "bottom",
}


def correct(text: str, scene: Scene, rng: np.random.Generator) -> str | None:
    """`text` without its invented or repeated objects, or None where none is left to name instead.

    Each becomes an object the caption left out, a small one where the sentence speaks of the
    background. With probability 0.5 one small object that is still missing gets a sentence at the
    end, as an annotator would add it. Attributes of objects that are there stay, right or wrong.
    """
    reading = judge(read(text), scene)
    mentioned = {m.category for m in reading.mentions}
    missing = [item for item in scene.items if item.category not in mentioned]
    edits: list[tuple[int, int, str]] = []
    swapped: dict[str, Item] = {}
    seen: set[str] = set()
    for mention in reading.mentions:
        refers_back = text[mention.span[0] :].lower().startswith("the ")
        repeated = mention.category in seen and not refers_back
        seen.add(mention.category)
        if scene.find(mention.category) and not repeated:
            continue
        if refers_back and mention.category in swapped:
            edits += _replace(reading, mention, swapped[mention.category], scene, rng)
            continue
        if not missing:
            return None
        small = [item for item in missing if item.size == "small"]
        item = small[0] if small and _in_background(reading, mention) else missing[0]
        missing.remove(item)
        swapped[mention.category] = item
        edits += _replace(reading, mention, item, scene, rng)
    for start, end, new in sorted(set(edits), reverse=True):
        text = text[:start] + new + text[end:]
    left_out = [item for item in missing if item.size == "small"]
    if left_out and rng.random() < 0.5:
        text = f"{text} {sentence(rng, left_out[0], 'small', scene.items[0], detail=1.0)}"
    result = judge(read(text), scene)
    faithful = all(result.words[m.noun].right for m in result.mentions)
    return text if result.mentions and faithful else None


def _in_background(reading: Reading, mention: Mention) -> bool:
    stops = [w.start for w in reading.words if w.text == "."]
    start = max((s for s in stops if s < mention.span[0]), default=0)
    end = min((s for s in stops if s > mention.span[0]), default=len(reading.text))
    return any(w.text in _FAR_WORDS for w in reading.words if start <= w.start < end)


def _replace(
    reading: Reading, mention: Mention, item: Item, scene: Scene, rng: np.random.Generator
) -> list[tuple[int, int, str]]:
    start, end = mention.span
    if reading.text[start:end].lower().startswith("the "):
        noun = noun_phrase(rng, item, detail=0.0).split()[-1]
        return [(start, end, reading.text[start : start + 4] + noun)]
    phrase = noun_phrase(rng, item)
    if reading.text[start].isupper():
        phrase = phrase[0].upper() + phrase[1:]
    edits = [(start, end, phrase)]
    for i in mention.positions:
        word = reading.words[i]
        if word.text in ("middle", "center"):
            first = reading.words[max(i - 2, 0)].start  # "in the middle", "near the center"
            side = "on the left" if item.centre[0] < 0.5 else "on the right"
            edits.append((first, word.end, side if reading.text[first].islower() else side.capitalize()))
        elif not position_holds(_BY_WORD[word.text], item):
            edits.append((word.start, word.end, _SWAP[word.text]))
    if mention.relation is not None:
        i, k = mention.relation
        other = scene.find(reading.mentions[k].category)
        word = reading.words[i]
        if other is not None:
            up = relation_holds("above", item, other)
            if up != (word.text in ("above", "over", "higher")):
                last = reading.words[i + 1] if word.text == "higher" else word  # "higher than"
                edits.append((word.start, last.end, "above" if up else "below"))
    return edits


def is_well_formed(text: str, vocabulary: frozenset[str]) -> bool:
    """Whether a sampled caption reads like one: known words, full sentences, no stutter."""
    words = read(text).words
    if len(words) < 6 or words[-1].text != "." or not text[0].isupper():
        return False
    if any(w.kind == FUNCTION and w.text not in vocabulary for w in words):
        return False
    if any(a.text == b.text for a, b in itertools.pairwise(words)):
        return False
    # a noun twice in a row ("a red car bus"), or a phrase of one kind only
    return not any(a.kind == b.kind == OBJECT for a, b in itertools.pairwise(words))
