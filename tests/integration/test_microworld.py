import numpy as np
import pytest

from uedpo.microworld.data import MicroWorldPairs
from uedpo.microworld.evaluation import caption_counts
from uedpo.microworld.grammar import caption, invented
from uedpo.microworld.pairs import correct, is_well_formed
from uedpo.microworld.scene import COMPANION, Item, Scene, make_scene, render
from uedpo.microworld.truth import judge, read, token_classes

SCENE = Scene(
    "shift",
    0,
    "farm",
    (
        Item("cow", "red", "large", ((10, 40, 44),), 1.0),
        Item("bus", "blue", "medium", ((64, 6, 26),), 1.0),
        Item("apple", "green", "small", ((4, 4, 14), (18, 4, 14)), 0.6),
    ),
)


def wrong(text, scene=SCENE):
    return [w.text for w in judge(read(text), scene).words if w.right is False]


def test_scenes_are_functions_of_split_and_index():
    a, b = make_scene("train", 5), make_scene("train", 5)
    assert a == b
    assert np.array_equal(np.asarray(render(a)), np.asarray(render(b)))
    assert make_scene("shift", 5) != a
    with pytest.raises(KeyError):
        make_scene("test", 0)


def test_splits_follow_or_break_the_co_occurrences():
    def share(split):
        hits = [make_scene(split, i) for i in range(600)]
        return np.mean([s.find(COMPANION[s.items[0].category]) is not None for s in hits])

    assert share("train") > 2.5 * share("shift")


@pytest.mark.parametrize("split", ["train", "shift"])
def test_grammar_and_reader_agree(split):
    for i in range(400):
        scene = make_scene(split, i)
        text = caption(np.random.default_rng(i), scene)
        assert wrong(text, scene) == [], text
        counts = caption_counts(text, scene)
        assert counts["found"] == counts["present"]
        assert counts["hallucinated"] == 0


def test_label_noise_invents_and_omits():
    scenes = [make_scene("train", i) for i in range(300)]
    texts = [caption(np.random.default_rng(i), s, invent=1.0, omit=0.0) for i, s in enumerate(scenes)]
    absent = [s.find(COMPANION[s.items[0].category]) is None for s in scenes]
    invents = [caption_counts(t, s)["hallucinated"] > 0 for t, s in zip(texts, scenes, strict=True)]
    assert invents == absent
    silent = [caption(np.random.default_rng(i), s, omit=1.0) for i, s in enumerate(scenes)]
    assert sum(caption_counts(t, s)["small_found"] for t, s in zip(silent, scenes, strict=True)) == 0


def test_truth_of_each_kind_of_word():
    assert wrong("A large red cow stood on the left. A blue bus sat at the top.") == []
    assert wrong("A green dog stood.") == ["green", "dog"]
    assert wrong("A blue cow stood.") == ["blue"]
    assert wrong("Three apples hid far away.") == ["three"]
    assert wrong("Some green apples hid far away on the right.") == ["right"]
    assert wrong("On the right, a red cow stood.") == ["right"]
    assert wrong("A bus sat above the cow. A cow sat above the bus.") == ["above"]
    assert wrong("A cow stood by the ocean.") == ["ocean"]
    assert wrong("One notices a medium-sized cow.") == ["medium-sized"]


def test_counts_hand_derived():
    counts = caption_counts("A blue cow stood on the left. A small dog hid far away.", SCENE)
    assert counts == {
        "captions": 1, "words": 13, "mentions": 2, "hallucinated": 1, "hallucinated_captions": 1,
        "present": 3, "found": 1, "small_present": 1, "small_found": 0,
        "attributes": 1, "attributes_right": 0, "positions": 1, "positions_right": 1,
    }  # fmt: skip


def test_token_classes_follow_offsets():
    text = "A red cow."
    spans = [(0, 1), (1, 5), (5, 9), (9, 10), (10, 10)]
    assert token_classes(judge(read(text), SCENE), spans) == [
        ("function word", None), ("attribute", True), ("object", True), ("full stop", None), ("end", None),
    ]  # fmt: skip


def test_corrections_are_faithful_and_local():
    text = "A red cow stood. Nearby, we find a purple dog on the right. Far away hid a yellow cup."
    fixed = correct(text, SCENE, np.random.default_rng(0))
    assert fixed is not None
    assert fixed.startswith("A red cow stood. Nearby, we find ")
    counts = caption_counts(fixed, SCENE)
    assert (counts["hallucinated"], counts["found"]) == (0, 3)
    assert (
        correct("A dog stood. A cup stood. A boat sat. A bird sat.", SCENE, np.random.default_rng(0)) is None
    )


def test_well_formed_filters_broken_samples():
    words = frozenset(["a", "stood", "nearby", "we", "find", "on", "the"])
    assert is_well_formed("A red cow stood. Nearby, we find a bus.", words)
    for bad in ("A red cow stood on the", "a red cow stood on the bus.", "A cow cow stood on the bus.",
                "A red cow bus stood on the bus.", "A cow blorbed on the red bus.", "A cow."):  # fmt: skip
        assert not is_well_formed(bad, words), bad


def test_invented_items_have_the_category_asked_for():
    assert invented(np.random.default_rng(0), "dog").category == "dog"


def test_shipped_pairs_correct_the_models_hallucinations():
    for split in ("train", "val"):
        pairs = MicroWorldPairs(split)
        assert len(pairs) >= 300
        for i in range(0, len(pairs), 7):
            pair = pairs[i]
            name, index = pair.id.rsplit("-", 1)
            scene = make_scene(name, int(index))
            assert caption_counts(pair.chosen, scene)["hallucinated"] == 0
            assert pair.chosen != pair.rejected
            assert pair.image.size == (96, 96)
    with pytest.raises(ValueError, match="num_pairs"):
        MicroWorldPairs("val", 10**6)
