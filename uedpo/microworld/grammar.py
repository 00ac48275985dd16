"""Captions with lexical variety: many sentence shapes, synonyms, optional attributes.

The words of this file are the only vocabulary `truth.py` has to understand. Verbs are chosen so
that no agreement is needed, which lets a correction swap one noun phrase for another.
"""

from __future__ import annotations

import numpy as np

from uedpo.microworld.scene import COMPANION, Item, Scene

SYNONYMS: dict[str, tuple[str, ...]] = {
    "boat": ("boat", "sailboat", "yacht"),
    "fish": ("fish",),
    "dolphin": ("dolphin", "porpoise"),
    "octopus": ("octopus", "squid"),
    "cow": ("cow", "bull"),
    "pig": ("pig", "hog", "piglet"),
    "chicken": ("chicken", "hen"),
    "tractor": ("tractor",),
    "car": ("car", "automobile", "sedan"),
    "bus": ("bus", "coach"),
    "bicycle": ("bicycle", "bike"),
    "dog": ("dog", "puppy", "hound"),
    "cup": ("cup", "mug"),
    "apple": ("apple",),
    "bread": ("loaf", "toast"),
    "banana": ("banana",),
    "balloon": ("balloon",),
    "plane": ("plane", "airplane", "jet"),
    "bird": ("bird", "sparrow"),
    "rocket": ("rocket", "spaceship"),
    "tree": ("tree",),
    "tulip": ("tulip", "flower"),
    "butterfly": ("butterfly", "moth"),
    "squirrel": ("squirrel", "chipmunk"),
}
_IRREGULAR = {
    "fish": "fish",
    "loaf": "loaves",
    "butterfly": "butterflies",
    "puppy": "puppies",
    "squid": "squid",
}
SIZE_WORDS = {
    "large": ("large", "big", "huge"),
    "medium": ("medium-sized",),
    "small": ("small", "tiny", "little"),
}
COUNT_WORDS = {1: ("one", "a", "an"), 2: ("two",), 3: ("three",)}
PLACE_WORDS = {
    "sea": ("at the seaside", "by the ocean", "on a calm coast"),
    "farm": ("on a farm", "in a field", "near a barn"),
    "street": ("in the street", "on a road", "in the city"),
    "kitchen": ("in a kitchen", "on a table", "in a warm room"),
    "sky": ("in the sky", "high among clouds", "up in the air"),
    "park": ("in a park", "in a garden", "on a lawn"),
}
# position -> phrases; the italic word of each is what truth.py looks for
POSITIONS: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "to the left", "on the left side"),
    "right": ("on the right", "to the right", "on the right side"),
    "top": ("at the top", "near the top", "in the upper part"),
    "bottom": ("at the bottom", "near the bottom", "in the lower part"),
    "middle": ("in the middle", "in the center", "near the center"),
}
RELATIONS: dict[str, tuple[str, ...]] = {
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "beneath"),
}
PROMPTS = (
    "Describe the image.",
    "What is in this picture?",
    "Tell me what you see.",
    "Write a caption for this image.",
)
_OPEN = (
    "The image shows", "This picture features", "We can see", "Here you find", "The photo captures",
    "One notices", "The view presents", "You can make out", "This scene contains", "Look at",
)  # fmt: skip
_VERB = ("stood", "rested", "appeared", "waited", "could be seen", "was placed", "drew the eye", "sat")
_ALSO = (
    "Nearby,", "Next to that,", "Besides,", "Also,", "In addition,", "There,", "Moreover,", "Then",
)  # fmt: skip
_ALSO_OPEN = ("we find", "you can spot", "one sees", "the picture shows", "we notice", "appeared", "came")
_FAR = (
    "In the background", "Far away", "Behind all this", "In the distance", "Further back", "Hidden there",
)  # fmt: skip
_FAR_OPEN = ("we spot", "one detects", "you may find", "we can see", "hid", "the eye meets", "appeared")
_FAR_VERB = ("hid", "appeared", "lurked")
_TAIL = ("The light is soft.", "It looks calm.", "Nothing else stands out.", "The mood is quiet.")


def plural(noun: str) -> str:
    """The plural of a noun of this world."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    return noun + ("es" if noun.endswith(("s", "sh", "ch", "x")) else "s")


def pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    """Skewed choice: earlier options are likelier, as in real text."""
    p = 1 / (np.arange(len(options)) + 2.0)
    return options[int(rng.choice(len(options), p=p / p.sum()))]


def noun_phrase(rng: np.random.Generator, item: Item, detail: float = 1.0) -> str:
    """ "a tiny red bird", "two birds": article or count, optional size and colour, noun."""
    words = []
    if rng.random() < 0.3 * detail:
        words.append(pick(rng, SIZE_WORDS[item.size]))
    if rng.random() < 0.65 * detail:
        words.append(item.colour)
    noun = pick(rng, SYNONYMS[item.category])
    words.append(noun if item.count == 1 else plural(noun))
    if item.count > 1:
        head = "some" if rng.random() < 0.2 else COUNT_WORDS[item.count][0]
    elif rng.random() < 0.08:
        head = "one"
    else:
        head = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([head, *words])


def position(rng: np.random.Generator, item: Item) -> str | None:
    """A true position phrase, or None where no word is clearly true."""
    x, y = item.centre
    options = []
    if x < 0.4:
        options.append("left")
    if x > 0.6:
        options.append("right")
    if y < 0.4:
        options.append("top")
    if y > 0.6:
        options.append("bottom")
    if abs(x - 0.5) < 0.12 and abs(y - 0.5) < 0.2:
        options = ["middle"]
    return pick(rng, POSITIONS[str(rng.choice(options))]) if options else None


def _relation(rng: np.random.Generator, item: Item, other: Item) -> str | None:
    gap = item.centre[1] - other.centre[1]
    if abs(gap) < 0.2:
        return None
    return pick(rng, RELATIONS["above" if gap < 0 else "below"])


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def sentence(rng: np.random.Generator, item: Item, kind: str, main: Item | None, detail: float) -> str:
    """One sentence about one item; `kind` is "main", "medium" or "small"."""
    phrase = noun_phrase(rng, item, detail)
    where = position(rng, item) if rng.random() < 0.6 * detail else None
    relation = None
    if main is not None and where is None and rng.random() < 0.35 * detail:
        relation = _relation(rng, item, main)
    shape = rng.random()
    if kind == "main":
        if shape < 0.45:
            text = f"{pick(rng, _OPEN)} {phrase}"
        elif shape < 0.8 or where is None:
            text = f"{_upper(phrase)} {pick(rng, _VERB)}"
        else:
            return f"{_upper(where)}, {phrase} {pick(rng, _VERB)}."
    elif kind == "medium":
        if shape < 0.4:
            text = f"{pick(rng, _ALSO)} {pick(rng, _ALSO_OPEN)} {phrase}"
        elif shape < 0.7 or where is None:
            text = f"{_upper(phrase)} {pick(rng, _VERB)}"
        else:
            return f"{_upper(where)} {pick(rng, _ALSO_OPEN)} {phrase}."
    elif shape < 0.6:
        text = f"{pick(rng, _FAR)} {pick(rng, _FAR_OPEN)} {phrase}"
    else:
        text = f"{_upper(phrase)} {pick(rng, _FAR_VERB)} {pick(rng, _FAR).lower()}"
    if relation is not None and main is not None:
        return f"{text} {relation} the {pick(rng, SYNONYMS[main.category])}."
    return f"{text} {where}." if where else f"{text}."


def caption(
    rng: np.random.Generator, scene: Scene, *, invent: float = 0.0, omit: float = 0.0, detail: float = 1.0
) -> str:
    """A caption of `scene`, faithful unless it gets the label noise of model-written ones.

    Args:
        invent: probability that an absent companion of the main item is mentioned.
        omit: probability that a small item is left out.
        detail: how often sizes, colours and positions are given, relative to the default.
    """
    main = scene.items[0]
    small = [item for item in scene.items if item.size == "small"]
    small = [item for item in small if rng.random() >= omit]
    absent = COMPANION[main.category]
    if scene.find(absent) is None and rng.random() < invent:
        small.append(invented(rng, absent))
    medium = [item for item in scene.items if item.size == "medium"]
    rng.shuffle(small)  # type: ignore[arg-type]
    sentences = [sentence(rng, main, "main", None, detail)]
    if rng.random() < 0.35:
        place = pick(rng, PLACE_WORDS[scene.place])
        sentences[0] = f"{sentences[0][:-1]} {place}."
    sentences += [sentence(rng, item, "medium", main, detail) for item in medium]
    if len(small) > 1 and rng.random() < 0.4:
        pair = " and ".join(noun_phrase(rng, item, detail) for item in small[:2])
        sentences.append(f"{pick(rng, _FAR)} {pick(rng, _FAR_OPEN)} {pair}.")
        small = small[2:]
    sentences += [sentence(rng, item, "small", main, detail) for item in small]
    if rng.random() < 0.1:
        sentences.append(pick(rng, _TAIL))
    return " ".join(sentences)


def invented(rng: np.random.Generator, category: str) -> Item:
    """An item that is not in the scene, drawn as a small one."""
    colour = str(rng.choice(["red", "green", "blue", "yellow", "purple"]))
    x, y = int(rng.integers(0, 82)), int(rng.integers(0, 82))
    return Item(category, colour, "small", ((x, y, 14),), 0.7)
