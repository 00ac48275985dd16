"""Words of a caption to COCO's 80 objects, as both CHAIR scripts do it (Rohrbach et al., 1809.02156).

CHAIR (2018) and Object HalBench differ in the synonym file, in whether synonyms are stripped, in which
pairs of words are merged, and in what makes words singular; the rest is here once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

ANIMALS = (
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "animal",
    "cub",
)
# merged into the word they are here, not into a pair: a baby elephant is no person
_QUALIFIED = {f"{who} {animal}": animal for animal in ANIMALS for who in ("baby", "adult")}
_QUALIFIED |= {f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")}
_QUALIFIED |= {"bow tie": "tie", "toilet seat": "toilet", "wine glas": "wine glass"}
_NO_OBJECTS = ("home plate", "train track")  # merged so that neither a plate nor a train is seen
_CHAIR_PAIRS = (
    *("motor bike", "motor cycle", "air plane", "traffic light", "street light", "traffic signal"),
    *("stop light", "fire hydrant", "stop sign", "parking meter", "suit case", "sports ball"),
    *("baseball bat", "baseball glove", "tennis racket", "wine glass", "hot dog", "cell phone"),
    *("mobile phone", "teddy bear", "hair drier", "potted plant", "bow tie", "laptop computer"),
    "stove top oven",
)


class Vocabulary(NamedTuple):
    """Which words are objects (word -> its node, one of 80) and which pairs are one word."""

    nodes: Mapping[str, str]
    pairs: Mapping[str, str]


class Mention(NamedTuple):
    word: str
    node: str


def chair_vocabulary(lines: Iterable[str]) -> Vocabulary:
    """CHAIR (2018): the line is stripped, its synonyms are not: " motor bike" never matches."""
    pairs = {pair: pair for pair in (*_CHAIR_PAIRS, *_NO_OBJECTS)}
    return Vocabulary(_nodes(line.strip().split(", ") for line in lines), pairs | _QUALIFIED)


def refined_vocabulary(lines: Iterable[str]) -> Vocabulary:
    """Object HalBench: synonyms are stripped, and each of several words is a pair."""
    nodes = _nodes([s.strip() for s in line.strip().split(", ")] for line in lines)
    pairs = {word: word for word in nodes if " " in word} | {pair: pair for pair in _NO_OBJECTS}
    return Vocabulary(nodes, pairs | _QUALIFIED)


def _nodes(rows: Iterable[Sequence[str]]) -> dict[str, str]:
    # a synonym of two nodes belongs to the later one
    return {synonym: row[0] for row in rows for synonym in row}


def merge_pairs(words: Sequence[str], pairs: Mapping[str, str], keep_others: bool = True) -> list[str]:
    """Replace two neighbours that are a pair, left to right; other words stay, or are dropped."""
    merged, i = [], 0
    while i < len(words):
        pair = " ".join(words[i : i + 2])
        if pair in pairs:
            merged.append(pairs[pair])
            i += 2
        else:
            if keep_others:
                merged.append(words[i])
            i += 1
    return merged


def mentions(words: Sequence[str], vocabulary: Vocabulary) -> list[Mention]:
    """Objects among merged words; beside a toilet, a seat is no chair."""
    if "toilet" in words and "seat" in words:
        words = [word for word in words if word != "seat"]
    return [Mention(word, vocabulary.nodes[word]) for word in words if word in vocabulary.nodes]


def caption_mentions(words: Sequence[str], vocabulary: Vocabulary) -> list[Mention]:
    """Objects of a caption's singular words."""
    return mentions(merge_pairs(words, vocabulary.pairs), vocabulary)


class Images(NamedTuple):
    """COCO annotations of the images that are asked for, train and val together.

    Attributes:
        known: ids that the annotation files list, however little they say of them.
        instances: image id -> category names.
        captions: image id -> reference captions.
    """

    known: frozenset[int]
    instances: Mapping[int, Iterable[str]]
    captions: Mapping[int, Sequence[str]]


def ground_truth(
    image_id: int, images: Images, vocabulary: Vocabulary, words_of: Callable[[str], list[str]]
) -> set[str]:
    """Nodes of the instances, and nodes that the reference captions mention.

    Args:
        words_of: singular words of a text.
    """
    nodes = {vocabulary.nodes[name] for name in images.instances.get(image_id, ())}
    for caption in images.captions.get(image_id, ()):
        nodes.update(m.node for m in caption_mentions(words_of(caption), vocabulary))
    return nodes
