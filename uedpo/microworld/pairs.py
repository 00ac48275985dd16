"""Preference pairs: the model's own hallucinated caption, and its segment-level correction.

As in RLHF-V, only what is wrong is rewritten: the noun phrase of an object that is not there
becomes that of one the caption left out, or its sentence goes; everything else stays.
"""

from __future__ import annotations

import numpy as np

from uedpo.microworld.grammar import noun_phrase
from uedpo.microworld.scene import Item, Scene
from uedpo.microworld.truth import FUNCTION, OBJECT, Mention, Reading, judge, position_holds, read, relation_holds

_SWAP = {"left": "right", "right": "left", "top": "bottom", "bottom": "top", "upper": "lower", "lower": "upper"}
_BY_WORD = {"left": "left", "right": "right", "top": "top", "upper": "top", "bottom": "bottom", "lower": "bottom"}


def correct(text: str, scene: Scene, rng: np.random.Generator) -> str | None:
    """`text` without its invented objects, or None where no small repair gives a faithful caption.

    Attributes and positions of objects that are there stay as they are, right or wrong.
    """
    reading = judge(read(text), scene)
    mentioned = {m.category for m in reading.mentions}
    missing = [item for item in scene.items if item.category not in mentioned]
    missing.sort(key=lambda item: item.size != "small")  # stable: small ones first
    edits: list[tuple[int, int, str]] = []
    swapped: dict[str, Item | None] = {}
    for mention in reading.mentions:
        if scene.find(mention.category):
            continue
        if mention.category not in swapped:
            swapped[mention.category] = missing.pop(0) if missing else None
        item = swapped[mention.category]
        edits += _drop(reading, mention) if item is None else _replace(reading, mention, item, scene, rng)
    for start, end, new in sorted(set(edits), reverse=True):
        text = text[:start] + new + text[end:]
    text = " ".join(text.split())
    result = judge(read(text), scene)
    faithful = all(result.words[m.noun].right for m in result.mentions)
    return text if result.mentions and faithful else None


def _drop(reading: Reading, mention: Mention) -> list[tuple[int, int, str]]:
    """Cut the sentence of an invented object that nothing can replace."""
    stops = [w.end for w in reading.words if w.text == "."]
    start = max((e for e in stops if e <= mention.span[0]), default=0)
    end = min((e for e in stops if e >= mention.span[1]), default=len(reading.text))
    return [(start, end, "")]


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
    if any(a.text == b.text for a, b in zip(words, words[1:], strict=False)):
        return False
    # a noun twice in a row ("a red car bus"), or a phrase of one kind only
    return not any(a.kind == b.kind == OBJECT for a, b in zip(words, words[1:], strict=False))
