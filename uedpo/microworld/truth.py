"""Ground truth of a caption, word by word: what it mentions and whether the scene has it.

Binding rules (the grammar obeys them, so they are exact on it; model text is read the same way):
a colour, size or count belongs to the noun phrase it stands in; a position belongs to the first
noun of its clause, or to the next noun where the clause has none ("On the left, a red boat ...");
a relation links the nouns before and after it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from uedpo.microworld.grammar import PLACE_WORDS, RELATIONS, SIZE_WORDS, SYNONYMS, plural
from uedpo.microworld.scene import COLOURS, Item, Scene

NOUNS: dict[str, tuple[str, bool]] = {}  # word -> (category, is plural)
for _category, _names in SYNONYMS.items():
    for _name in _names:
        NOUNS[plural(_name)] = (_category, True)
        NOUNS[_name] = (_category, False)  # "fish" and "squid" count as singular
_SIZES = {word: size for size, words in SIZE_WORDS.items() for word in words}
_COUNTS = {"one": 1, "two": 2, "three": 3, "some": 0}
_POSITIONS = {
    "left": "left", "right": "right", "top": "top", "upper": "top", "bottom": "bottom",
    "lower": "bottom", "middle": "middle", "center": "middle",
}  # fmt: skip
_RELATIONS = {phrase.split()[0]: name for name, phrases in RELATIONS.items() for phrase in phrases}
_PLACES = {phrase.split()[-1]: place for place, phrases in PLACE_WORDS.items() for phrase in phrases}
_WORD = re.compile(r"[A-Za-z]+(?:-[a-z]+)?|[.,]")

OBJECT, ATTRIBUTE, POSITION, PLACE, FUNCTION, STOP, END = (
    "object", "attribute", "position", "place", "function word", "full stop", "end",
)  # fmt: skip
TOKEN_CLASSES = (OBJECT, ATTRIBUTE, POSITION, PLACE, FUNCTION, STOP, END)


@dataclass
class Word:
    """One word with its character span, class, and truth (None where it claims nothing)."""

    text: str
    start: int
    end: int
    kind: str
    right: bool | None = None


@dataclass
class Mention:
    """One noun phrase: `span` in characters, `words` are indices into the word list."""

    category: str
    span: tuple[int, int]
    noun: int
    attributes: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    relation: tuple[int, int] | None = None  # (word index, index of the other mention)


@dataclass
class Reading:
    """What a caption says: words in order and the noun phrases among them."""

    text: str
    words: list[Word]
    mentions: list[Mention]


def _kind(word: str) -> str:
    if word in NOUNS:
        return OBJECT
    if word in COLOURS or word in _SIZES:
        return ATTRIBUTE
    if word in _POSITIONS or word in _RELATIONS:
        return POSITION
    if word in _PLACES:
        return PLACE
    return STOP if word in ".," else FUNCTION


def read(text: str) -> Reading:
    """Parse a caption; never fails, unknown words are function words."""
    words = [
        Word(m.group().lower(), m.start(), m.end(), _kind(m.group().lower())) for m in _WORD.finditer(text)
    ]
    mentions = []
    for i, word in enumerate(words):
        if word.kind != OBJECT:
            continue
        first = i
        while first > 0 and words[first - 1].kind == ATTRIBUTE:
            first -= 1
        attributes = list(range(first, i))
        if first > 0 and words[first - 1].text in _COUNTS:
            first -= 1
            words[first].kind = ATTRIBUTE
            attributes.insert(0, first)
        elif first > 0 and words[first - 1].text in ("a", "an", "the"):
            first -= 1
        mentions.append(Mention(NOUNS[word.text][0], (words[first].start, word.end), i, attributes))
    _bind_positions(words, mentions)
    return Reading(text, words, mentions)


def _bind_positions(words: list[Word], mentions: list[Mention]) -> None:
    for i, word in enumerate(words):
        if word.kind != POSITION:
            continue
        before = [k for k, m in enumerate(mentions) if m.noun < i and not _stop_between(words, m.noun, i)]
        after = [k for k, m in enumerate(mentions) if m.noun > i and not _stop_between(words, i, m.noun, ".")]
        if word.text in _RELATIONS:
            if before and after:
                mentions[before[0]].relation = (i, after[0])
        elif before:
            mentions[before[0]].positions.append(i)
        elif after:
            mentions[after[0]].positions.append(i)


def _stop_between(words: list[Word], first: int, last: int, stops: str = ".,") -> bool:
    return any(word.text in stops for word in words[first + 1 : last])


def judge(reading: Reading, scene: Scene) -> Reading:
    """Fill `right` of every word that claims something about `scene`; returns the same object.

    Attributes and positions of an object that is not there are wrong.
    """
    for word in reading.words:
        if word.kind == PLACE:
            word.right = _PLACES[word.text] == scene.place
        elif word.kind == POSITION:
            word.right = False  # unless bound below
    for mention in reading.mentions:
        item = scene.find(mention.category)
        reading.words[mention.noun].right = item is not None
        for i in mention.attributes:
            reading.words[i].right = item is not None and _attribute_holds(reading.words[i].text, item)
        for i in mention.positions:
            reading.words[i].right = item is not None and position_holds(
                _POSITIONS[reading.words[i].text], item
            )
        if mention.relation is not None:
            i, k = mention.relation
            other = scene.find(reading.mentions[k].category)
            name = _RELATIONS[reading.words[i].text]
            reading.words[i].right = (
                item is not None and other is not None and relation_holds(name, item, other)
            )
    return reading


def _attribute_holds(word: str, item: Item) -> bool:
    if word in COLOURS:
        return word == item.colour
    if word in _SIZES:
        return _SIZES[word] == item.size
    return item.count > 1 if word == "some" else _COUNTS[word] == item.count


def position_holds(position: str, item: Item) -> bool:
    """Whether "left", "right", "top", "bottom" or "middle" is true of the item (generous bounds)."""
    x, y = item.centre
    return {
        "left": x < 0.5,
        "right": x > 0.5,
        "top": y < 0.5,
        "bottom": y > 0.5,
        "middle": abs(x - 0.5) < 0.25 and abs(y - 0.5) < 0.3,
    }[position]


def relation_holds(relation: str, item: Item, other: Item) -> bool:
    """Whether `item` is "above" or "below" `other`."""
    higher = item.centre[1] < other.centre[1]
    return higher if relation == "above" else not higher


def token_classes(reading: Reading, offsets: list[tuple[int, int]]) -> list[tuple[str, bool | None]]:
    """(class, right) of each token, given character spans; an empty span is the end token.

    Args:
        offsets: (start, end) of each token in `reading.text`, as fast tokenizers give them.
    """
    result: list[tuple[str, bool | None]] = []
    for start, end in offsets:
        if start == end:
            result.append((END, None))
            continue
        hit = [w for w in reading.words if w.start < end and w.end > start]
        word = max(hit, key=lambda w: min(w.end, end) - max(w.start, start)) if hit else None
        result.append((word.kind, word.right) if word else (FUNCTION, None))
    return result
