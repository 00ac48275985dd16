"""From files to a score, one function a benchmark: what is there, what is missing, and the scorer's call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from uedpo.errors import InputError
from uedpo.evaluation.official import (
    amber_discriminative,
    amber_generative,
    assets,
    chair,
    coco,
    language,
    mmhal,
    object_halbench,
    pope,
)
from uedpo.evaluation.official.answers import Answer
from uedpo.evaluation.official.coverage import Run, located
from uedpo.evaluation.official.outcome import Scored, UnknownWord
from uedpo.evaluation.official.reading import parse_lines, shown, take

REPLIES_HEADER = "uedpo_judge_replies"
# what each scorer reproduces
SCRIPTS = {
    "pope": "AoiDragon/POPE 3df3ba1 evaluate.py",
    "chair": "LisaAnne/Hallucination 6e4d33c utils/chair.py",
    "object_halbench": "RLHF-V/RLAIF-V 83d917b eval/eval_gpt_obj_halbench.py",
    "mmhal": "RLHF-V/RLAIF-V 83d917b eval/eval_gpt_mmhal.py",
    "amber_discriminative": "junyangwang0410/AMBER 534babf inference.py",
    "amber_generative": "junyangwang0410/AMBER 534babf inference.py",
}
MMHAL_TEMPLATE = "mmhal-bench_answer_template.json"


def score_pope(run: Run) -> Scored:
    labels = assets.pope_labels(run.read(), run.assets.name)
    rows = run.answers.rows
    run.counts |= {"expected": len(labels), "answers": len(rows)}
    if run.answers.official:
        pairs = list(zip(rows, labels, strict=False))
        odd = [a.where for a, label in pairs if a.question is not None and label.question not in a.question]
        run.note_odd("question_mismatches", odd, "the question is not that of the label file's line")
        extra = [a.where for a in rows[len(labels) :]]
        run.note_odd("extra", extra, "an answer beyond the label file, which only yes_ratio counts")
        num_missing = max(0, len(labels) - len(rows))
    else:
        by_id = _by_id(rows, [label.question_id for label in labels], "question_id of the label file")
        num_missing = len(labels) - len(by_id)
        labels = [label for label in labels if label.question_id in by_id]
        rows = [by_id[label.question_id] for label in labels]
    run.note_missing("answers", num_missing, "answer the whole label file")
    run.stop_if_incomplete(min(len(rows), len(labels)))
    with located([a.where for a in rows]):
        return pope.score([a.text for a in rows], [label.is_yes for label in labels], run.mode)


def score_amber_discriminative(run: Run) -> Scored:
    run.require("annotations.json")
    pairs = _amber_rows(run, lambda a: a.kind != "generative")
    known = (*amber_discriminative.KINDS, *amber_discriminative.OTHER_KINDS)
    odd = [answer.where for a, answer in pairs if a.kind not in known]
    run.note_odd("unknown_types", odd, "a type that the script counts as Relation")
    with located([answer.where for _, answer in pairs]):
        return amber_discriminative.score(
            [amber_discriminative.Question(a.kind, a.is_yes, answer.text) for a, answer in pairs], run.mode
        )


def score_amber_generative(run: Run) -> Scored:
    run.require("annotations.json", "relation.json", "safe_words.txt")
    pairs = _amber_rows(run, lambda a: a.kind == "generative")
    association = assets.amber_association(run.read("relation.json"), "relation.json")
    for a, _ in pairs:
        unknown = [word for word in (*a.truth, *a.hallu) if word not in association]
        if unknown:
            raise InputError(f"annotations.json, id {a.id}: {shown(unknown[0])} is no key of relation.json")
    safe_words = run.read("safe_words.txt").replace("\r\n", "\n").split("\n")
    words = _nltk(run, language.PUNKT, language.TAGGER, language.WORDNET)
    similar, run.versions["similarity"] = _recorded_or(
        run, "similarity", language.SimilarityTable, language.spacy_similarity
    )
    described = [
        amber_generative.Description(words.nouns(answer.text), a.truth, a.hallu) for a, answer in pairs
    ]
    scored = amber_generative.score(described, association, safe_words, similar, run.mode)
    scored.counts["mean_words"] = sum(len(answer.text.split()) for _, answer in pairs) / len(pairs)
    return scored


def score_mmhal(run: Run) -> Scored:
    other = "response_template.json"  # LLaVA-RLHF's name of the file
    name = other if (run.assets / other).is_file() else MMHAL_TEMPLATE
    run.require(name)
    questions = assets.mmhal_template(run.read(name), name)
    rows = run.answers.rows
    by_row = _by_id(rows, range(len(questions)), f"row of {name}")
    if run.answers.official:
        by_row = {i: a for i, a in by_row.items() if a.text}  # the template's own is empty
        odd = [a.where for a in rows if a.question is not None and a.question != questions[a.id]]
        run.note_odd("question_mismatches", odd, "the question is not that of the template's row")
    run.counts |= {"expected": len(questions), "answers": len(by_row)}
    run.note_missing("answers", len(questions) - len(by_row), "answer all rows of the template")
    replies = _replies(run, "mmhal", len(questions), lambda reply: True)
    wanted = by_row if run.allow_partial else range(len(questions))
    judged = {i: replies[i] for i in wanted if i in replies}
    run.note_missing("replies", len(wanted) - len(judged), "pass judge_replies=PATH with all rows")
    run.stop_if_incomplete(len(judged))
    return mmhal.score(judged, run.mode)


def score_chair(run: Run) -> Scored:
    run.require("synonyms.txt", *assets.coco_files())
    vocabulary = coco.chair_vocabulary(run.read("synonyms.txt").splitlines())
    rows, header = run.answers.rows, run.answers.header or {}
    _note_repeats(run, [(a.id, a.where) for a in rows])
    # which images are asked for is the user's choice: only our own header can tell how many
    expected = take(header, "num", int, "header of the answers") if "num" in header else len(rows)
    if expected < 0:
        raise InputError(f"header of the answers: num must be 0 or more, not {expected}")
    if expected < len(rows):
        raise InputError(f"{rows[expected].where}: more answers than the {expected} that the header tells")
    run.counts |= {"expected": expected, "answers": len(rows)}
    run.note_missing("answers", max(0, expected - len(rows)), "caption all images")
    tokenizer = _nltk(run, language.PUNKT)
    singular, run.versions["singularize"] = _recorded_or(
        run, "singularize", language.SingularTable, language.pattern_singularize
    )
    captions: list[chair.Caption] = []

    def words_of(text: str) -> list[str]:
        return [singular(word) for word in tokenizer.tokens(text.lower())]

    def add(row: Answer, truth: frozenset[str]) -> None:
        captions.append(chair.Caption(coco.caption_mentions(words_of(row.text), vocabulary), truth))

    _with_ground_truth(run, [(a, a.id) for a in rows], vocabulary, words_of, add, "singulars")
    return chair.score(captions)


def score_object_halbench(run: Run) -> Scored:
    run.require("synonyms_refine.txt", *assets.coco_files())
    vocabulary = coco.refined_vocabulary(run.read("synonyms_refine.txt").splitlines())
    rows = run.answers.rows
    images = {a.image_id for a in rows}
    _note_repeats(run, [(a.image_id, a.where) for a in rows])
    run.counts |= {"expected": object_halbench.NUM_IMAGES, "answers": len(rows), "images": len(images)}
    run.note_missing("answers", max(0, object_halbench.NUM_IMAGES - len(images)), "answer all 300 images")
    if len(images) > object_halbench.NUM_IMAGES and not run.allow_partial:
        run.reasons.append(f"{len(images)} images, where the script asserts {object_halbench.NUM_IMAGES}")
    words = _nltk(run, language.PUNKT, language.WORDNET)
    replies: dict[int, str] | None = None
    run.versions["judge"] = "none: objects are words of the answers (without --use_gpt)"
    if "judge_replies" in run.recordings:
        del run.versions["judge"]
        replies, rows = _judged(run, rows)
        tag, run.versions["tagger"] = _recorded_or(run, "tagger", language.TagTable, language.spacy_tagger)
    scored: list[object_halbench.Answer] = []

    def words_of(text: str) -> list[str]:
        return [words.lemma(word) for word in words.tokens(text.lower())]

    def add(row: Answer, truth: frozenset[str]) -> None:
        text = object_halbench.clean(row.text)
        if replies is None:
            found = coco.caption_mentions(words_of(text), vocabulary)
        else:
            reply = replies[row.id] if object_halbench.needs_judge(text) else "[]"
            with located([row.where]):
                listed = object_halbench.phrases(reply, run.mode == "strict")
            found = object_halbench.judged_mentions([tag(f"a {p}") for p in listed], vocabulary)
        scored.append(object_halbench.Answer(text, found, truth))

    _with_ground_truth(run, [(a, a.image_id) for a in rows], vocabulary, words_of, add, "tags")
    return object_halbench.score(scored)


def _judged(run: Run, rows: Sequence[Answer]) -> tuple[dict[int, str], list[Answer]]:
    """Replies, and the rows that have one or need none."""
    num_rows = max([object_halbench.NUM_IMAGES, *(a.id + 1 for a in rows)])
    replies = _replies(run, "object_halbench", num_rows, object_halbench.accepts)
    ready = [a for a in rows if a.id in replies or not object_halbench.needs_judge(a.text)]
    run.note_missing("replies", len(rows) - len(ready), "pass judge_replies=PATH with one that parses a row")
    return replies, ready


def _with_ground_truth(
    run: Run,
    rows: Sequence[tuple[Answer, int | None]],
    vocabulary: coco.Vocabulary,
    words_of: Callable[[str], list[str]],
    add: Callable[[Answer, frozenset[str]], None],
    recorded: str,
) -> None:
    """Call `add` with each row and what is in its image; count the rows that cannot be scored.

    Args:
        rows: with the id of the image.
        recorded: what a recording may lack: singulars, or tags.
    """
    wanted = {image for _, image in rows if image is not None}
    images = assets.coco_images(run.read, wanted, vocabulary)
    truths: dict[int, frozenset[str]] = {}
    unlisted, unknown = 0, []
    for row, image in rows:
        if image is None or image not in images.known:
            unlisted += 1
            continue
        try:
            if image not in truths:
                truths[image] = frozenset(coco.ground_truth(image, images, vocabulary, words_of))
            add(row, truths[image])
        except UnknownWord as error:
            unknown.append(f"{row.where}: {shown(str(error))}")
    run.note_missing("ground_truth", unlisted, "images that no annotation file lists; check image_id")
    first = f" (first: {unknown[0]})" if unknown else ""
    run.note_missing(recorded, len(unknown), f"rows with a word that the recording lacks{first}")
    run.stop_if_incomplete(len(rows) - unlisted - len(unknown))


def _amber_rows(
    run: Run, is_asked: Callable[[assets.Annotation], bool]
) -> list[tuple[assets.Annotation, Answer]]:
    """Answers of one of AMBER's tasks with their annotations, which the script finds by position."""
    name = "annotations.json"
    annotations = assets.amber_annotations(run.read(name), name)
    moved = [f"{name}[{i}]" for i, a in enumerate(annotations) if a.id != i + 1]
    run.note_odd("moved_annotations", moved, "the id is not the position, by which the script finds it")
    expected = {i for i, a in enumerate(annotations, start=1) if is_asked(a)}
    for row in run.answers.rows:
        if not 1 <= row.id <= len(annotations):
            raise InputError(f"{row.where}: id must be 1 to {len(annotations)}, not {row.id}")
    asked = [row for row in run.answers.rows if row.id in expected]
    _note_repeats(run, [(row.id, row.where) for row in asked])
    others = len(run.answers.rows) - len(asked)
    run.counts |= {"expected": len(expected), "answers": len(asked), "of_other_tasks": others}
    run.note_missing("answers", len(expected - {row.id for row in asked}), "answer all queries")
    run.stop_if_incomplete(len(asked))
    return [(annotations[row.id - 1], row) for row in asked]


def _by_id(rows: Iterable[Answer], known: Collection[int], what: str) -> dict[int, Answer]:
    ids = set(known)
    for row in rows:
        if row.id not in ids:
            raise InputError(f"{row.where}: id {row.id} is no {what}")
    return {row.id: row for row in rows}


def _note_repeats(run: Run, keys: Iterable[tuple[int | None, str]]) -> None:
    """Count ids that come again.

    Args:
        keys: (id, file:line) of each row.
    """
    seen: set[int | None] = set()
    repeats = []
    for key, where in keys:
        if key in seen:
            repeats.append(where)
        seen.add(key)
    run.note_odd("duplicates", repeats, "an id again, which the script counts again")


def _replies(run: Run, benchmark: str, num_rows: int, accepts: Callable[[str], bool]) -> dict[int, str]:
    """Row -> the first of its recorded replies that the official parser accepts."""
    if "judge_replies" not in run.recordings:
        return {}
    path = run.recordings["judge_replies"]
    replies: dict[int, str] = {}
    models: set[str] = set()
    attempts = 0
    for where, row in parse_lines(run.inputs.read(path), str(path)):
        if isinstance(row, dict) and REPLIES_HEADER in row:
            models.add(take(row, "judge", str, where))
            _check_replies_header(run, benchmark, row, where)
            continue
        index = take(row, "index", int, where)
        if not 0 <= index < num_rows:
            raise InputError(f"{where}: index must be 0 to {num_rows - 1}, not {index}")
        attempts += 1
        if row.get("reply") is None and isinstance(row.get("status"), str):
            continue  # our own record of an attempt that failed
        reply = take(row, "reply", str, where)
        if index not in replies and accepts(reply):
            replies[index] = reply
            models |= {row["model"]} if isinstance(row.get("model"), str) else set()
    run.counts["attempts"] = attempts
    run.versions["judge"] = ", ".join(sorted(models)) or "unnamed"
    return replies


def _check_replies_header(run: Run, benchmark: str, header: dict[str, Any], where: str) -> None:
    """Rows alone tie replies to answers: those to other answers would score without a sign."""
    if header.get("benchmark", benchmark) != benchmark:
        raise InputError(f"{where}: benchmark is {shown(header['benchmark'])}, asked for {benchmark}")
    # an official file made from ours has another hash, and its rows are the same
    judged, ours = header.get("answers_sha256"), run.answers.sha256
    if judged is not None and ours is not None and judged != ours:
        run.note_odd("replies_to_other_answers", [where], "answers_sha256 is not that of the answers")


def _nltk(run: Run, *resources: str) -> language.Nltk:
    words = language.Nltk(run.assets, *resources)
    run.versions["nltk"] = words.version
    run.sources.sha256 |= words.sha256
    return words


def _recorded_or(run: Run, option: str, table: Any, installed: Callable[[], Any]) -> tuple[Any, str]:
    """The recording where one is given, else what is installed; with its version."""
    if option not in run.recordings:
        function, version = installed()
        return function, version
    recording = table(*run.recorded(option))
    return recording, recording.version


BENCHMARKS: dict[str, tuple[Callable[[Run], Scored], tuple[str, ...]]] = {
    "pope": (score_pope, pope.METRICS),
    "chair": (score_chair, chair.METRICS),
    "object_halbench": (score_object_halbench, object_halbench.METRICS),
    "mmhal": (score_mmhal, mmhal.METRICS),
    "amber_discriminative": (score_amber_discriminative, amber_discriminative.METRICS),
    "amber_generative": (score_amber_generative, amber_generative.METRICS),
}
