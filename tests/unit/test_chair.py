import random

import pytest

from tests.reference import scorer_twins
from uedpo.evaluation.official.chair import Caption, score
from uedpo.evaluation.official.coco import (
    Images,
    Mention,
    caption_mentions,
    chair_vocabulary,
    ground_truth,
    merge_pairs,
    refined_vocabulary,
)
from uedpo.evaluation.official.outcome import Undefined

# in the manner of the official list: doubles, spaces inside and at the end, one word in two rows
LINES = """person, man, baby, passenger
motorcycle,  motor bike, motor cycle, motorbike
cow, bison \t
toilet, urinal
chair, seat, bow
tie, bow, bow tie
bear, panda
train, caboose
airplane, jet
wine glass
glass
elephant
dog, puppy
hot dog
dining table, table
oven, stove, stove top oven
tennis racket, racket
teddy bear, teddybear
""".splitlines(keepends=True)
CHAIR, REFINED = chair_vocabulary(LINES), refined_vocabulary(LINES)


def nodes(words, vocabulary=CHAIR):
    return [m.node for m in caption_mentions(words.split(), vocabulary)]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("a man and a man", ["person", "person"]),
        ("baby elephant", ["elephant"]),
        ("adult dog and passenger jet", ["dog", "airplane"]),
        ("passenger train", ["train"]),
        ("baby animal", []),
        ("baby cub", []),
        ("baby puppy", ["person", "dog"]),
        ("bow tie", ["tie"]),
        ("bow", ["tie"]),
        ("wine glas", ["wine glass"]),
        ("wine glass", ["wine glass"]),
        ("hot dog", ["hot dog"]),
        ("hot hot dog dog", ["hot dog", "dog"]),
        ("teddy bear bear", ["teddy bear", "bear"]),
        ("train track", []),
        ("train tracks", ["train"]),
        ("home plate", []),
        ("stove top oven", ["oven", "oven"]),
        ("tennis racket", ["tennis racket"]),
        ("tenni racket", ["tennis racket"]),
        ("dining table", ["dining table"]),
        ("toilet seat", ["toilet"]),
        ("seat of the toilet", ["toilet"]),
        ("seat of the urinal", ["chair", "toilet"]),
        ("toilet seat and a seat", ["toilet"]),
        ("chair by the toilet", ["chair", "toilet"]),
        ("bison", ["cow"]),
    ],
)
def test_caption_mentions(words, found):
    assert nodes(words) == found


def test_synonyms_of_chair_are_not_stripped_those_of_object_halbench_are():
    assert " motor bike" in CHAIR.nodes
    assert nodes("motor bike") == []
    assert nodes("motor cycle") == ["motorcycle"]
    assert nodes("motor bike", REFINED) == ["motorcycle"]
    assert nodes("dining table", REFINED) == ["dining table"]
    assert "dining table" in REFINED.pairs
    assert "dining table" not in CHAIR.pairs


def test_merge_is_greedy_from_the_left():
    pairs = {"a b": "ab", "b c": "bc"}
    assert merge_pairs(["a", "b", "c"], pairs) == ["ab", "c"]
    assert merge_pairs(["b", "b", "c", "a"], pairs) == ["b", "bc", "a"]
    assert merge_pairs(["x", "a", "b", "c"], pairs, keep_others=False) == ["ab"]


def test_ground_truth_is_instances_and_references():
    images = Images(frozenset({1, 2}), {1: ["dog"]}, {1: ["a man", "baby elephant"]})
    assert ground_truth(1, images, CHAIR, str.split) == {"dog", "person", "elephant"}
    assert ground_truth(2, images, CHAIR, str.split) == set()


def test_score_counts_every_mention():
    dog, man = Mention("puppy", "dog"), Mention("man", "person")
    there = frozenset({"dog"})
    scored = score([Caption([dog, man, man], there), Caption([dog], there), Caption([], there)])
    assert scored.metrics == {"CHAIRs": 1 / 3, "CHAIRi": 2 / 4}
    assert scored.printed == {"CHAIRs": "33.3", "CHAIRi": "50.0"}


@pytest.mark.parametrize("captions", [[], [Caption([], frozenset({"dog"}))]])
def test_score_has_no_number_without_objects(captions):
    with pytest.raises(Undefined):
        score(captions)


def test_caption_mentions_and_score_agree_with_their_twins():
    rng = random.Random(4)
    rows = [line.strip().split(", ") for line in LINES]
    words = sorted({w for row in rows for s in row for w in s.split(" ")} | {"adult", "home", "plate", "the"})
    everything = sorted({row[0] for row in rows})
    captions = []
    for _ in range(3000):
        text = rng.choices(words, k=rng.randrange(12))
        found = caption_mentions(text, CHAIR)
        assert [m.node for m in found] == scorer_twins.caption_nodes(text, rows, CHAIR.pairs)
        captions.append(Caption(found, frozenset(rng.sample(everything, 5))))
    for start in range(0, 3000, 5):
        part = captions[start : start + 5]
        twin = scorer_twins.chair([([m.node for m in c.mentions], c.truth) for c in part])
        if twin is None:
            with pytest.raises(Undefined):
                score(part)
        else:
            assert tuple(score(part).metrics.values()) == twin
