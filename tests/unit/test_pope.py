import random

import pytest

from tests.reference import scorer_twins
from uedpo.evaluation.official.outcome import Undefined
from uedpo.evaluation.official.pope import METRICS, says_yes, score

YES = ["", "NO", "Nope", "No!", "None", "isn't", "no\n", "I don't see one. No.", "Yes", "nothing", "\tno"]
YES += ["maybe; no?", "Is it?No", "NOT", "Not a dog", "yes. not"]
NO = ["No", "no", "No.", "No, there is not", "Yes, it is not hidden.", "There is no dog", "a,b not,", "not"]
NO += ["no,", "N,o", "yes  no", "No. Yes"]


@pytest.mark.parametrize(("answer", "yes"), [(a, True) for a in YES] + [(a, False) for a in NO])
def test_says_yes_is_the_scripts_word_test(answer, yes):
    assert says_yes(answer) is yes


def test_score_counts_yes_as_positive():
    scored = score(["Yes", "Yes", "No", "no dog", "Yes"], [True, False, True, False, True])
    assert scored.metrics == {
        "accuracy": 3 / 5,
        "precision": 2 / 3,
        "recall": 2 / 3,
        "f1": 2 * (2 / 3) * (2 / 3) / (2 / 3 + 2 / 3),
        "yes_ratio": 3 / 5,
    }
    assert [scored.counts[k] for k in ("true_yes", "false_yes", "true_no", "false_no")] == [2, 1, 1, 1]
    assert scored.baselines["always_yes"]["f1"] == 2 * 0.6 * 1.0 / (0.6 + 1.0)


def test_score_cuts_the_longer_but_yes_ratio_is_over_all_answers():
    scored = score(["Yes", "No", "Yes", "Yes", "Yes"], [True, False])
    assert scored.metrics["accuracy"] == 1.0
    assert scored.metrics["yes_ratio"] == 4 / 5
    assert score(["Yes"], [True, False, False]).metrics["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("answers", "labels", "what"),
    [
        (["No", "no"], [True, False], "no answer is yes"),
        (["Yes", "No"], [False, False], "no label is yes"),
        (["Yes", "No"], [False, True], "no yes is right"),
        ([], [True], "no answers"),
    ],
)
def test_score_has_no_number_where_the_script_divides_by_zero(answers, labels, what):
    with pytest.raises(Undefined, match=what):
        score(answers, labels)


def test_strict_refuses_what_can_be_read_in_two_ways():
    assert score(["Yes, there is.", "no", "NO.", "Yes"][:2], [True, False], "strict").metrics["accuracy"] == 1
    for answer in ("NO", "Yes, it is not hidden.", "", "maybe", "Nope", "I see none. No."):
        with pytest.raises(Undefined) as caught:
            score(["Yes", answer], [True, False], "strict")
        assert caught.value.row == 1


def test_score_agrees_with_its_twin_on_random_answers():
    rng = random.Random(0)
    pieces = ["Yes", "No", "no", "not", "NO", ",", ".", " ", " ", "\n", "dog", "isn't", "nothing", "n"]
    undefined = 0
    for _ in range(3000):
        answers = ["".join(rng.choices(pieces, k=rng.randrange(7))) for _ in range(rng.randrange(1, 9))]
        labels = [rng.random() < 0.5 for _ in range(rng.randrange(1, 9))]
        twin = scorer_twins.pope(answers, labels)
        if twin is None:
            undefined += 1
            with pytest.raises(Undefined):
                score(answers, labels)
        else:
            metrics = score(answers, labels).metrics
            assert tuple(metrics[name] for name in METRICS) == twin
    assert 100 < undefined < 2000
