"""Object HalBench (Yu et al., 2312.00849) as RLAIF-V's eval_gpt_obj_halbench.py scores it.

With a judge (the published numbers), objects are the phrases it lists, tagged; without, the words of
the answer. Published "CHAIRs" are CHAIRs_refine: hallucinated answers over answers with an object.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from uedpo.evaluation.official.coco import Mention, Vocabulary, mentions, merge_pairs
from uedpo.evaluation.official.outcome import Scored, Undefined, ratio
from uedpo.runtime.small_json import loads

NUM_IMAGES = 300
METRICS = (
    "CHAIRs",
    "CHAIRs_refine",
    "CHAIRi",
    "obj_rec",
    "avg_word_len",
    "correct_rate",
    "object_correct_rate",
)
_NOUNS = {"NN", "NNS", "NNP", "NNPS"}


class Token(NamedTuple):
    text: str
    lemma: str
    tag: str


class Answer(NamedTuple):
    """An answer as `clean` leaves it, the objects it mentions, and the nodes in its image."""

    text: str
    mentions: Sequence[Mention]
    truth: frozenset[str]


def clean(answer: str) -> str:
    """Every "Assistant:" goes, then white space at both ends."""
    return answer.replace("Assistant:", "").strip()


def needs_judge(answer: str) -> bool:
    """Answers of up to three words have no objects and never reach the judge."""
    return len(clean(answer).split()) > 3


def accepts(reply: str) -> bool:
    """Whether the official parser takes this reply; else the script asks again."""
    try:
        parse(reply)
    except (ValueError, RecursionError):
        return False
    return True


def phrases(reply: str, strict: bool = False) -> list[str]:
    """The phrases of an accepted reply.

    As in the script a JSON string gives its characters, an object its keys, and what is no text is
    formatted as one.

    Raises:
        Undefined: a number, true, false or null (the script dies), or in strict all but a list of texts.
    """
    value = parse(reply)
    is_list = isinstance(value, list) and all(isinstance(v, str) for v in value)
    if not isinstance(value, list | str | dict) or (strict and not is_list):
        raise Undefined(f"reply {reply[:60]!a} is no JSON list of phrases", 0)
    return [f"{v}" for v in value]


def parse(reply: str) -> Any:
    """A reply as the script reads it: JSON, or JSON on its last line where `["` occurs.

    Raises:
        ValueError, RecursionError: the script would ask again.
    """
    try:
        return loads(reply)
    except (ValueError, RecursionError):
        if '["' not in reply:
            raise
        return loads(reply.strip().split("\n")[-1])


def objects(tagged: Iterable[Sequence[Token]], vocabulary: Vocabulary) -> list[str]:
    """Distinct objects of tagged phrases: pairs where a phrase has any, else its runs of nouns."""
    found: dict[str, None] = {}
    for tokens in tagged:
        pairs = merge_pairs([t.lemma for t in tokens], vocabulary.pairs, keep_others=False)
        found |= dict.fromkeys(pairs or noun_runs(tokens))
    return list(found)


def noun_runs(tokens: Sequence[Token]) -> list[str]:
    """Lemmas of neighbouring nouns, joined: "bus driver" is one object, and no bus."""
    runs: list[list[str]] = [[]]
    for token in tokens:
        if token.tag in _NOUNS:
            runs[-1].append(token.lemma)
        elif runs[-1]:
            runs.append([])
    return [" ".join(run).strip() for run in runs if run]


def judged_mentions(tagged: Iterable[Sequence[Token]], vocabulary: Vocabulary) -> list[Mention]:
    return mentions(objects(tagged, vocabulary), vocabulary)


def score(answers: Sequence[Answer]) -> Scored:
    """Fractions, but for `avg_word_len` in words.

    Raises:
        Undefined: where the script dies of a division by zero: no answers, no object in any, or no
            object in any image.
    """
    wrong = [[m for m in a.mentions if m.node not in a.truth] for a in answers]
    right = [{m.node for m in a.mentions} & a.truth for a in answers]
    counts: dict[str, float] = {
        "sentence_num": len(answers),
        "coco_sentence_num": sum(bool(a.mentions) for a in answers),
        "hallucinated_sentences": sum(map(bool, wrong)),
        "mentions": sum(len(a.mentions) for a in answers),
        "hallucinated_mentions": sum(map(len, wrong)),
        # the script's name for distinct right classes
        "coco_word_count": sum(map(len, right)),
        "gt_word_count": sum(len(a.truth) for a in answers),
        "words": sum(len(a.text.strip().split(" ")) for a in answers),
    }
    c = counts
    chairs = ratio(c["hallucinated_sentences"], c["sentence_num"], "CHAIRs: no answers")
    refine = ratio(
        c["hallucinated_sentences"], c["coco_sentence_num"], "CHAIRs_refine: no answer has an object"
    )
    chairi = ratio(c["hallucinated_mentions"], c["mentions"], "CHAIRi: no answer has an object")
    length = c["words"] / c["sentence_num"]
    recall = ratio(c["coco_word_count"], c["gt_word_count"], "obj_rec: no object in any image")
    values = (chairs, refine, chairi, recall, length, 1 - refine, 1 - chairi)
    metrics = dict(zip(METRICS, values, strict=True))
    printed = {name: f"{metrics[name] * 100:.1f}" for name in ("CHAIRs", "CHAIRs_refine", "CHAIRi")}
    printed |= {"avg_word_len": f"{length:.1f}", "Response Hall": f"{refine * 100:.2f}"}
    return Scored({**metrics}, counts, printed=printed)
