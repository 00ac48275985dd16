import gzip
import hashlib
import json

import pytest

from uedpo.errors import ConfigError
from uedpo.evaluation.official import amber_discriminative, mmhal
from uedpo.evaluation.official.assets import coco_files
from uedpo.evaluation.score import main, parse_settings

QUESTIONS = [(11, "Is there a dog in the image?", "yes"), (12, "Is there a cat in the image?", "no")]
QUESTIONS += [(13, "Is there a bus in the image?", "yes"), (14, "Is there a man in the image?", "no")]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def pope(tmp_path):
    """A call of score with the answers given: (exit code, report or None)."""
    labels = tmp_path / "labels.json"
    labels.write_text(
        lines({"question_id": i, "image": "x", "text": t, "label": label} for i, t, label in QUESTIONS)
    )

    def call(answers, *options):
        path, output = tmp_path / "answers.jsonl", tmp_path / "report.json"
        output.unlink(missing_ok=True)
        path.write_bytes(answers if isinstance(answers, bytes) else lines(answers).encode())
        code = main([f"answers={path}", f"assets={labels}", f"output={output}", "benchmark=pope", *options])
        return code, json.loads(output.read_text()) if output.exists() else None

    return call


def ours(rows, benchmark="pope", **header):
    return [{"uedpo_answers": 1, "benchmark": benchmark, **header}, *rows]


def answered(*answers):
    return [{"question": t, "answer": a} for (_, t, _), a in zip(QUESTIONS, answers, strict=False)]


def test_benchmark_in_capitals_and_paths_that_no_system_takes(pope, tmp_path, capsys):
    assert pope(answered("Yes", "Yes", "No", "No"), "mode=OFFICIAL")[0] == 0
    found = [f"answers={tmp_path / 'answers.jsonl'}", f"assets={tmp_path / 'labels.json'}"]
    assert main([*found, "benchmark=POPE", f"output={tmp_path / 'r.json'}"]) == 0
    capsys.readouterr()
    for answers, output in (("x" * 300, "r"), ("~no_such_user/x", "r"), (None, f"{tmp_path}/{'x' * 300}")):
        given = found[:1] if answers is None else [f"answers={answers}"]
        assert main([*given, found[1], "benchmark=pope", f"output={output}"]) == 2
        assert "Traceback" not in capsys.readouterr().err


def test_report_keeps_the_header_that_the_table_compares_a_name_with(pope):
    header, *rows = ours([{"id": i, "answer": "Yes"} for i, _, _ in QUESTIONS], model="other/model")
    assert pope([header, *rows])[1]["answered"] == header
    assert pope(answered("Yes", "Yes", "No", "No"))[1]["answered"] is None


def test_report_says_what_was_scored_with_what(pope, tmp_path):
    code, report = pope(answered("Yes", "Yes", "No", "No"))
    assert code == 0
    assert report["benchmark"] == "pope"
    assert report["mode"] == "official"
    assert report["partial"] is False
    assert report["metrics"] == {
        "accuracy": 0.5,
        "precision": 0.5,
        "recall": 0.5,
        "f1": 0.5,
        "yes_ratio": 0.5,
    }
    assert report["counts"]["expected"] == report["counts"]["scored"] == 4
    assert report["counts"]["missing_answers"] == 0
    assert report["assets"] == {
        "labels.json": hashlib.sha256((tmp_path / "labels.json").read_bytes()).hexdigest()
    }
    assert set(report["inputs"]) == {"answers.jsonl"}
    assert report["versions"].keys() >= {"uedpo", "python"}
    assert report["reasons"] == report["warnings"] == []


def test_our_format_is_matched_by_id_in_any_order(pope):
    rows = [{"id": i, "answer": "Yes" if i in (11, 13) else "No"} for i in (14, 11, 13, 12)]
    code, report = pope(ours(rows))
    assert (code, report["metrics"]["accuracy"]) == (0, 1.0)


def test_gzip_and_byte_order_mark_are_read(pope):
    text = lines(answered("Yes", "Yes", "No", "No")).encode()
    for data in (gzip.compress(text), b"\xef\xbb\xbf" + text, text.replace(b"\n", b"\r\n")):
        assert pope(data)[1]["metrics"]["f1"] == 0.5


def test_a_missing_answer_makes_all_metrics_null(pope, capsys):
    for rows in (answered("Yes", "No", "Yes"), ours([{"id": i, "answer": "Yes"} for i in (11, 12, 14)])):
        code, report = pope(rows)
        assert code == 1
        assert set(report["metrics"].values()) == {None}
        assert report["counts"]["missing_answers"] == 1
        assert (report["counts"]["expected"], report["counts"]["answers"]) == (4, 3)
        assert report["counts"]["scored"] == 0
        assert report["baselines"] == {}
        assert capsys.readouterr().err.count("\n") == 1


def test_allow_partial_scores_the_subset_and_says_so(pope):
    code, report = pope(answered("Yes", "No", "No"), "allow_partial=true")
    assert code == 0
    assert report["partial"] is True
    assert report["metrics"]["accuracy"] == 2 / 3
    assert report["metrics"]["yes_ratio"] == 1 / 3
    assert report["counts"]["scored"] == 3
    rows = [{"id": i, "answer": "Yes"} for i in (14, 13)]
    code, report = pope(ours(rows), "allow_partial=true")
    assert (code, report["metrics"]["accuracy"], report["counts"]["scored"]) == (0, 0.5, 2)
    code, report = pope(ours([]), "allow_partial=true")
    assert (code, set(report["metrics"].values())) == (1, {None})


def test_more_answers_than_labels_count_in_yes_ratio_alone(pope):
    rows = [*answered("Yes", "No", "Yes", "No"), {"question": "?", "answer": "Yes"}]
    code, report = pope(rows)
    assert (code, report["metrics"]["accuracy"], report["metrics"]["yes_ratio"]) == (0, 1.0, 3 / 5)
    assert report["counts"]["extra"] == 1
    assert report["warnings"]
    assert pope(rows, "mode=strict")[0] == 2


def test_no_yes_is_null_with_the_reason(pope, capsys):
    code, report = pope(answered("No", "No", "No", "No"))
    assert code == 1
    assert set(report["metrics"].values()) == {None}
    assert "no answer is yes" in report["reasons"][0]
    assert "no answer is yes" in capsys.readouterr().err


def test_strict_names_the_line_of_an_unclear_answer(pope, capsys):
    code, report = pope(answered("Yes", "No", "maybe", "No"), "mode=strict")
    assert (code, set(report["metrics"].values())) == (1, {None})
    assert "answers.jsonl:3: 'maybe'" in capsys.readouterr().err


def test_questions_of_another_line_are_reported(pope, capsys):
    rows = answered("Yes", "Yes", "Yes", "No")[::-1]
    code, report = pope(rows)
    assert (code, report["counts"]["question_mismatches"]) == (0, 4)
    assert pope(rows, "mode=strict")[0] == 2
    assert "answers.jsonl:1: the question" in capsys.readouterr().err
    suffixed = [r | {"question": r["question"] + "\nAnswer with one word."} for r in rows[::-1]]
    assert "question_mismatches" not in pope(suffixed)[1]["counts"]


def test_an_unknown_id_is_an_error(pope, capsys):
    assert pope(ours([{"id": 99, "answer": "Yes"}])) == (2, None)
    assert "answers.jsonl:2: id 99" in capsys.readouterr().err


def test_settings_name_all_problems_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError) as caught:
        parse_settings(
            ["benchmrk=pope", "mode=offical", "allow_partial=yes", "answers=/none", "x", "mode=strict"]
        )
    text = str(caught.value)
    assert text.startswith("9 problems")
    for part in (
        "benchmrk: unknown key; did you mean benchmark?",
        "benchmark: missing",
        "assets: missing",
        "output: missing",
        "mode=offical: did you mean official?",
        "allow_partial=yes: allowed: true, false",
        "answers=/none: no such file",
        "x: must be KEY=VALUE",
        "mode: given twice",
    ):
        assert part in text


def test_output_is_never_a_file_that_was_read(pope, tmp_path, capsys):
    before = lines(answered("Yes", "Yes", "No", "No"))
    (tmp_path / "answers.jsonl").write_text(before)
    files = (tmp_path / "answers.jsonl", tmp_path / "labels.json")
    for output in files:
        kept = output.read_bytes()
        assert main(["benchmark=pope", f"answers={files[0]}", f"assets={files[1]}", f"output={output}"]) == 2
        assert "was read" in capsys.readouterr().err
        assert output.read_bytes() == kept


@pytest.fixture
def amber(tmp_path):
    kinds = [*amber_discriminative.KINDS, "relation", "discriminative-relation"]
    rows = [{"id": 1, "type": "generative", "truth": ["dog"], "hallu": []}]
    rows += [{"id": i + 2, "type": k, "truth": "no" if i != 5 else "yes"} for i, k in enumerate(kinds)]
    folder = tmp_path / "amber"
    folder.mkdir()

    def call(answers, *options, annotations=rows):
        (folder / "annotations.json").write_text(json.dumps(annotations))
        path, output = tmp_path / "answers.json", tmp_path / "report.json"
        output.unlink(missing_ok=True)
        path.write_text(json.dumps([{"id": i, "response": a} for i, a in answers]))
        name = "benchmark=amber_discriminative"
        code = main([name, f"answers={path}", f"assets={folder}", f"output={output}", *options])
        return code, json.loads(output.read_text()) if output.exists() else None

    call.rows = rows
    return call


def test_amber_reports_sections_baselines_and_no_ratio(amber):
    code, report = amber([(i, "No") for i in range(7, 0, -1)])
    assert code == 0
    assert set(report["metrics"]) == set(amber_discriminative.METRICS)
    assert report["metrics"]["no_ratio"] == 1.0
    assert report["metrics"]["Accuracy"] == round(5 / 6.001 * 100, 1)
    assert report["baselines"]["always_no"]["F1"] == report["metrics"]["F1"]
    assert report["baselines"]["always_yes"]["Accuracy"] == round(1 / 6.001 * 100, 1)
    assert report["counts"]["of_other_tasks"] == 1
    assert report["counts"]["expected"] == 6


def test_amber_duplicates_count_again_as_in_the_script(amber):
    answers = [(i, "No") for i in range(2, 8)]
    code, report = amber([*answers, (2, "No")])
    assert (code, report["counts"]["duplicates"]) == (0, 1)
    assert report["metrics"]["Accuracy"] == round(6 / 7.001 * 100, 1)
    assert report["warnings"]
    assert amber([*answers, (2, "No")], "mode=strict")[0] == 2


def test_amber_a_duplicate_does_not_hide_a_missing_answer(amber):
    code, report = amber([(i, "No") for i in (2, 3, 4, 5, 6, 6)])
    assert (code, report["counts"]["missing_answers"]) == (1, 1)
    assert set(report["metrics"].values()) == {None}


def test_amber_finds_annotations_by_position(amber):
    moved = [row | {"id": 100 - row["id"]} for row in amber.rows]
    answers = [(i, "No") for i in range(2, 8)]
    code, report = amber(answers, annotations=moved)
    assert (code, report["metrics"]["Accuracy"]) == (0, amber(answers)[1]["metrics"]["Accuracy"])
    assert amber(answers, "mode=strict", annotations=moved)[0] == 2
    assert amber([(8, "No")])[0] == amber([(0, "No")])[0] == 2


def test_a_missing_asset_makes_all_metrics_null(tmp_path, capsys):
    answers, output = tmp_path / "a.json", tmp_path / "r.json"
    answers.write_text('[{"id": 1, "response": "Yes", "image_id": 1, "caption": "", "model_answer": "x"}]')
    for benchmark, named in (
        ("amber_discriminative", "annotations.json"),
        ("amber_generative", "annotations.json, relation.json, safe_words.txt"),
        ("mmhal", "mmhal-bench_answer_template.json"),
        (
            "chair",
            "synonyms.txt, instances_train2014.json, instances_val2014.json, captions_train2014.json",
        ),
    ):
        assert (
            main([f"benchmark={benchmark}", f"answers={answers}", f"assets={tmp_path}", f"output={output}"])
            == 1
        )
        report = json.loads(output.read_text())
        assert set(report["metrics"].values()) == {None}
        assert report["counts"]["missing_assets"] >= 1
        error = capsys.readouterr().err
        assert named in error
        assert error.count("\n") == 1


def test_a_negative_count_in_the_header_is_named(tmp_path, capsys):
    for name in ("synonyms.txt", *coco_files()):
        (tmp_path / name).touch()
    answers = tmp_path / "a.jsonl"
    answers.write_text(lines(ours([], "chair", num=-1)))
    output = f"output={tmp_path / 'r.json'}"
    assert main(["benchmark=chair", f"answers={answers}", f"assets={tmp_path}", output]) == 2
    assert "num must be 0 or more" in capsys.readouterr().err


@pytest.fixture
def judged(tmp_path):
    rows = [{"question": f"q{i}", "model_answer": ""} for i in range(8)]
    (tmp_path / "mmhal-bench_answer_template.json").write_text(json.dumps(rows))

    def call(answers, replies, *options):
        path, output, recorded = (
            tmp_path / name for name in ("answers.json", "report.json", "replies.jsonl")
        )
        output.unlink(missing_ok=True)
        path.write_text(json.dumps([r | {"model_answer": a} for r, a in zip(rows, answers, strict=True)]))
        recorded.write_text(lines(replies))
        arguments = ["benchmark=mmhal", f"answers={path}", f"assets={tmp_path}", f"output={output}"]
        code = main([*arguments, f"judge_replies={recorded}", *options])
        return code, json.loads(output.read_text()) if output.exists() else None

    return call


def replied(*indices):
    return [{"index": i, "reply": f"Rating: {i % 7}", "model": "judge-1"} for i in indices]


def test_mmhal_takes_the_first_reply_of_a_row(judged):
    later = [{"index": 3, "reply": "Rating: 6"}]
    failed = [{"index": 3, "reply": None, "status": "timeout", "raw": "x"}]
    code, report = judged("abcdefgh", [*failed, *replied(*range(8)), *later])
    assert (code, report["metrics"]["average_score/counting"]) == (0, 3.0)
    assert set(report["metrics"]) == set(mmhal.METRICS)
    assert report["versions"]["judge"] == "judge-1"
    assert report["counts"]["attempts"] == 10


def test_replies_of_another_benchmark_or_to_other_answers_are_noticed(tmp_path, judged):
    head = {"uedpo_judge_replies": 1, "benchmark": "object_halbench", "judge": "judge-1"}
    assert judged("abcdefgh", [head, *replied(*range(8))])[0] == 2
    path, output, replies = (tmp_path / name for name in ("ours.jsonl", "report.json", "replies.jsonl"))
    path.write_text(lines(ours([{"id": i, "answer": "a"} for i in range(8)], "mmhal")))
    call = ["benchmark=mmhal", f"answers={path}", f"assets={tmp_path}", f"output={output}"]
    call.append(f"judge_replies={replies}")
    for sha256, counted, strict in ((hashlib.sha256(path.read_bytes()).hexdigest(), 0, 0), ("0" * 64, 1, 2)):
        head |= {"benchmark": "mmhal", "answers_sha256": sha256}
        replies.write_text(lines([head, *replied(*range(8))]).replace("Rating: 7", "Rating: 1"))
        assert main([*call, "mode=strict"]) == strict
        assert main(call) == 0
        assert json.loads(output.read_text())["counts"].get("replies_to_other_answers", 0) == counted


def test_mmhal_a_missing_reply_or_answer_makes_all_metrics_null(judged):
    code, report = judged("abcdefgh", replied(0, 1, 2, 3, 4, 5, 7))
    assert (code, report["counts"]["missing_replies"], set(report["metrics"].values())) == (1, 1, {None})
    code, report = judged(["a"] * 7 + [""], replied(*range(8)))
    assert (code, report["counts"]["missing_answers"], set(report["metrics"].values())) == (1, 1, {None})
    code, report = judged(["a"] * 7 + [""], replied(*range(8)), "allow_partial=true")
    assert (code, report["partial"], report["counts"]["scored"]) == (0, True, 7)
    assert report["metrics"]["average_score"] == (0 + 1 + 2 + 3 + 4 + 5 + 6) / 7
    assert report["metrics"]["average_score/other"] is None
    code, report = judged("abcdefgh", [])
    assert (code, report["counts"]["missing_replies"]) == (1, 8)


def test_mmhal_unparsable_is_zero_and_strict_refuses_it(judged):
    replies = [*replied(*range(7)), {"index": 7, "reply": "**Rating:** 5"}]
    code, report = judged("abcdefgh", replies)
    assert (code, report["metrics"]["average_score/other"], report["counts"]["unparsable_ratings"]) == (
        0,
        0.0,
        1,
    )
    code, report = judged("abcdefgh", replies, "mode=strict")
    assert (code, set(report["metrics"].values())) == (1, {None})


def test_an_unneeded_recording_is_a_warning(pope, tmp_path):
    other = tmp_path / "s.json"
    other.write_text("{}")
    _, report = pope(answered("Yes", "Yes", "No", "No"), f"singularize={other}")
    assert report["warnings"] == ["singularize is not used by pope"]
