"""AMBER's generative task (Wang et al., 2311.07397) as its inference.py scores it.

The nouns of each answer that are in the vocabulary are matched, in order, against the words of the
image: in the truth, hallucinated as people are expected to (`hallu`), similar to one of them, or
hallucinated. Denominators are floats that start at 0.001.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from uedpo.evaluation.official.outcome import Mode, Scored, Undefined
from uedpo.runtime.progress import tracked

START = 0.001
THRESHOLD = 0.8  # strictly above it, two words are the same thing
METRICS = ("CHAIR", "Cover", "Hal", "Cog")
Similarity = Callable[[str, str], float]
Association = Mapping[str, Sequence[str]]


class Description(NamedTuple):
    """Nouns of one answer, lemmas in order, and the annotated words of its image."""

    nouns: Sequence[str]
    truth: Sequence[str]
    hallu: Sequence[str]


@dataclass
class Slots:
    """Words that credit a slot each: all associated words of word 0, of word 1, ..., then the words.

    The first match wins, so a word that is also an association of another always credits that one.
    """

    annotated: Sequence[str]
    association: Association
    table: list[tuple[str, int]] = field(init=False)
    credited: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.table = [(w, slot) for slot, word in enumerate(self.annotated) for w in self.association[word]]
        self.table += [(word, slot) for slot, word in enumerate(self.annotated)]
        self.credited = [0] * len(self.annotated)

    def credit(self, matches: Callable[[str], bool]) -> bool:
        """Credit the slot of the first word that matches; False where none does."""
        slot = next((slot for word, slot in self.table if matches(word)), None)
        if slot is not None:
            self.credited[slot] = 1
        return slot is not None


def vocabulary(association: Association) -> frozenset[str]:
    """All words that can be kept: keys and their associated words."""
    return frozenset(association) | {word for words in association.values() for word in words}


def is_hallucinated(noun: str, truth: Slots, hallu: Slots, similar: Similarity) -> bool:
    """Match one kept noun that is not a safe word; credits slots on the way."""
    if truth.credit(lambda word: word == noun):
        return False
    # a hallu word is credited, and goes on: it may still be similar to another one, or to the truth
    hallu.credit(lambda word: word == noun)
    hallu.credit(lambda word: similar(noun, word) > THRESHOLD)
    return not truth.credit(lambda word: similar(noun, word) > THRESHOLD)


def score(
    descriptions: Iterable[Description],
    association: Association,
    safe_words: Iterable[str],
    similar: Similarity,
    mode: Mode = "official",
) -> Scored:
    """CHAIR, Cover, Hal and Cog in per cent, pooled over all answers.

    Args:
        association: relation.json.
        safe_words: kept nouns that are never hallucinated, and credit nothing.
        similar: similarity of two words of the vocabulary, 1.0 for identical ones.

    Raises:
        Undefined: in `strict`, a denominator that is 0 but for the 0.001.
    """
    known, safe = vocabulary(association), frozenset(safe_words)
    chair = cover = cog = clean = 0
    chair_num = cover_num = cog_num = clean_num = START
    for nouns, truth_words, hallu_words in tracked(descriptions, "descriptions"):
        truth, hallu = Slots(truth_words, association), Slots(hallu_words, association)
        kept = [noun for noun in nouns if noun in known]
        wrong = sum(is_hallucinated(n, truth, hallu, similar) for n in kept if n not in safe)
        chair, chair_num = chair + wrong, chair_num + len(kept)
        cover, cover_num = cover + sum(truth.credited), cover_num + len(truth.credited)
        cog, cog_num = cog + sum(hallu.credited), cog_num + len(hallu.credited)
        clean, clean_num = clean + (wrong == 0), clean_num + 1
    if mode == "strict" and START in (chair_num, cover_num, cog_num, clean_num):
        raise Undefined("no kept noun, no truth word, no hallu word or no answer at all, so 0/0")
    values = (
        round(chair / chair_num * 100, 1),
        round(cover / cover_num * 100, 1),
        round(100 - clean / clean_num * 100, 1),
        round(cog / cog_num * 100, 1),
    )
    counts: dict[str, float] = {
        "kept_nouns": int(chair_num),
        "hallucinated_nouns": chair,
        "truth_slots": int(cover_num),
        "truth_slots_credited": cover,
        "hallu_slots": int(cog_num),
        "hallu_slots_credited": cog,
        "responses_without_hallucination": clean,
    }
    return Scored(dict(zip(METRICS, values, strict=True)), counts)
