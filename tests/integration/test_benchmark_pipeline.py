"""A micro-world model through generate, score and table, with the code that scores COCO.

The micro-world's model knows no yes or no: it captions. POPE counts all but a "no" as a yes, so its
score here is that of always answering yes; what is tested is the pipe.
"""

import importlib.util
import json

import pytest

from tests import processes
from uedpo.evaluation.append_file import ANSWERS, read
from uedpo.evaluation.generate import answer_benchmark
from uedpo.microworld.assets import write_assets
from uedpo.microworld.grammar import PROMPTS

has_score = importlib.util.find_spec("uedpo.evaluation.score") is not None
needs_score = pytest.mark.skipif(not has_score, reason="uedpo.evaluation.score is not there yet")
NUM = 30


def run(stage, *arguments):
    done = processes.run(f"uedpo.evaluation.{stage}", *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("micro")
    write_assets(str(folder), num=NUM)
    common = ("model=uedpo:micro_llava", f"images={folder / 'images'}", "batch_size=30")
    chair = ("benchmark=chair", f"assets={folder}", f"output={folder / 'chair.jsonl'}")
    shown = run("generate", *common, *chair, f"prompt={PROMPTS[0]}", "max_new_tokens=96")
    assert f"{NUM}/{NUM} answers" in shown
    pope = {"assets": str(folder / "pope.json"), "output": str(folder / "pope.jsonl")}
    model = {"model": "uedpo:micro_llava", "images": str(folder / "images"), "batch_size": 60}
    assert answer_benchmark("pope", **pope, **model, max_new_tokens=8) == 0
    return folder


def test_generate_answers_each_question_once(folder):
    ids = [row["id"] for _, row in read(folder / "chair.jsonl", ANSWERS)[1]]
    assert ids == list(range(1_000_000, 1_000_000 + NUM))
    asked = [json.loads(line)["question_id"] for line in (folder / "pope.json").read_text().splitlines()]
    assert [row["id"] for _, row in read(folder / "pope.jsonl", ANSWERS)[1]] == asked


@needs_score
def test_pope_is_scored_and_shown(folder):
    output = folder / "pope_report.json"
    run(
        "score",
        "benchmark=pope",
        f"answers={folder / 'pope.jsonl'}",
        f"assets={folder / 'pope.json'}",
        f"output={output}",
    )
    metrics = json.loads(output.read_text())["metrics"]
    assert metrics["yes_ratio"] > 0.9
    text = run("table", "run=micro-world", output, f"html={folder / 'table.html'}")
    assert f"| micro-world | pope | f1 | {metrics['f1']:.6g} |" in text


@needs_score
def test_chair_agrees_with_the_microworlds_own(folder, nltk):
    from uedpo.microworld.evaluation import TEST_START, caption_counts
    from uedpo.microworld.scene import make_scene

    output = folder / "chair_report.json"
    tables = (f"singularize={folder / 'singularize.json'}", f"assets={folder}")
    run("score", "benchmark=chair", f"answers={folder / 'chair.jsonl'}", *tables, f"output={output}")
    metrics = json.loads(output.read_text())["metrics"]
    answers = [row["answer"] for _, row in read(folder / "chair.jsonl", ANSWERS)[1]]
    counts = [caption_counts(text, make_scene("shift", TEST_START + i)) for i, text in enumerate(answers)]
    total = {name: sum(c[name] for c in counts) for name in counts[0]}
    # both count every mention, the one by words of a list, the other by the grammar
    assert metrics["CHAIRi"] == total["hallucinated"] / total["mentions"]
    assert metrics["CHAIRs"] == total["hallucinated_captions"] / NUM
    assert 0 < metrics["CHAIRi"] < 1
    assert f"| micro | chair | CHAIRi | {metrics['CHAIRi']:.6g} |" in run("table", "run=micro", output)
