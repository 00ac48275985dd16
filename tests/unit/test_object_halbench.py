import pytest

from uedpo.evaluation.official.coco import Mention, refined_vocabulary
from uedpo.evaluation.official.object_halbench import (
    Answer,
    Token,
    accepts,
    clean,
    judged_mentions,
    needs_judge,
    noun_runs,
    objects,
    phrases,
    score,
)
from uedpo.evaluation.official.outcome import Undefined

VOCABULARY = refined_vocabulary(
    [
        "person, man, driver",
        "bus",
        "hot dog",
        "chair, seat",
        "toilet",
        "tie, bow, bow tie",
        "dog",
        "airplane, jet",
    ]
)


def tagged(*words):
    """Tokens of "lemma/TAG" texts."""
    return [Token(w.split("/")[0], *w.split("/")) for w in words]


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ('["a dog", "bus"]', ["a dog", "bus"]),
        ("[]", []),
        ('Sure:\n["dog"]\n', ["dog"]),
        ('["dog"]\n["bus"]', ["bus"]),
        ('"dog"', ["d", "o", "g"]),
        ('{"dog": 1, "bus": []}', ["dog", "bus"]),
        ('[1, null, ["x"]]', ["1", "None", "['x']"]),
        ('  ["dog"] ', ["dog"]),
    ],
)
def test_phrases_follow_the_official_parser(reply, found):
    assert accepts(reply)
    assert phrases(reply) == found


@pytest.mark.parametrize(
    "reply",
    ["()", "", "dog, bus", '["dog"]\nThat is all.', "-1\n<no_response>", "['dog']", '```json\n["dog"]\n```'],
)
def test_replies_that_make_the_script_ask_again(reply):
    assert not accepts(reply)


@pytest.mark.parametrize("reply", ["3", "null", "true", "NaN"])
def test_replies_that_the_script_dies_of(reply):
    assert accepts(reply)
    with pytest.raises(Undefined, match="no JSON list"):
        phrases(reply)


def test_strict_takes_a_list_of_texts_only():
    assert phrases('["dog"]', strict=True) == ["dog"]
    for reply in ('"dog"', '{"dog": 1}', "[1]"):
        with pytest.raises(Undefined):
            phrases(reply, strict=True)


def test_short_answers_need_no_judge():
    assert not needs_judge("a big dog")
    assert needs_judge("a big brown dog")
    assert not needs_judge("Assistant: a big dog Assistant:")
    assert clean(" Assistant: Hi Assistant:there ") == "Hi there"


def test_noun_runs_join_neighbours():
    assert noun_runs(tagged("a/DT", "bus/NN", "driver/NN")) == ["bus driver"]
    assert noun_runs(tagged("dog/NNS", "and/CC", "big/JJ", "bus/NNP", "Stop/NNPS")) == ["dog", "bus Stop"]
    assert noun_runs(tagged("a/DT", "red/JJ")) == []


def test_a_pair_displaces_all_other_nouns_of_its_phrase():
    assert objects([tagged("a/DT", "man/NN", "hot/JJ", "dog/NN")], VOCABULARY) == ["hot dog"]
    assert objects([tagged("a/DT", "bow/NN", "tie/NN")], VOCABULARY) == ["tie"]
    assert objects([tagged("passenger/NN", "jet/NN"), tagged("train/NN", "track/NN")], VOCABULARY) == [
        "jet",
        "train track",
    ]


def test_mentions_are_unique_texts_of_known_objects():
    found = judged_mentions(
        [tagged("a/DT", w) for w in ("man/NN", "person/NN", "man/NNS", "cloud/NN")]
        + [tagged("a/DT", "bus/NN", "driver/NN"), tagged("a/DT", "Hot/NNP", "Dog/NNP")],
        VOCABULARY,
    )
    assert found == [Mention("man", "person"), Mention("person", "person")]
    assert judged_mentions([tagged("toilet/NN"), tagged("seat/NN")], VOCABULARY) == [
        Mention("toilet", "toilet")
    ]
    assert judged_mentions([tagged("seat/NN")], VOCABULARY) == [Mention("seat", "chair")]


def test_score_has_three_denominators():
    man, dog, bus = Mention("man", "person"), Mention("dog", "dog"), Mention("bus", "bus")
    there = frozenset({"dog", "bus"})
    scored = score(
        [
            Answer("a dog  and a man", [dog, man, man], there),
            Answer("a bus", [bus, bus], there),
            Answer("", [], there),
            Answer("nothing", [], there),
        ]
    )
    assert scored.metrics == {
        "CHAIRs": 1 / 4,
        "CHAIRs_refine": 1 / 2,
        "CHAIRi": 2 / 5,
        "obj_rec": 2 / 8,
        "avg_word_len": (6 + 2 + 1 + 1) / 4,  # single spaces: "dog  and" is three words, "" one
        "correct_rate": 1 - 1 / 2,
        "object_correct_rate": 1 - 2 / 5,
    }
    assert scored.printed["Response Hall"] == "50.00"
    assert scored.printed["CHAIRs"] == "25.0"


def test_score_has_no_number_without_objects():
    with pytest.raises(Undefined, match="no answer has an object"):
        score([Answer("nothing here", [], frozenset({"dog"}))])
    with pytest.raises(Undefined, match="no object in any image"):
        score([Answer("a dog", [Mention("dog", "dog")], frozenset())])
    with pytest.raises(Undefined, match="no answers"):
        score([])
