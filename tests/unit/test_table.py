import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from uedpo.errors import InputError
from uedpo.evaluation.table import BASE, HEADLINES, NOT_RUN, PAPER, write_tables

OURS = "UE-DPO, RLHF-V"
LLAVA = {"model": "llava-hf/llava-1.5-7b-hf", "adapter_sha256": "aa"}


def report(folder, benchmark, metrics, name=None, **more):
    folder.mkdir(exist_ok=True)
    path = folder / f"{name or benchmark}.json"
    whole = {"benchmark": benchmark, "mode": "official", "metrics": metrics, "counts": {}, "versions": {}}
    path.write_text(json.dumps(whole | more))
    return str(path)


def cells(text, run, column):
    """Cells of a column of the first table: {"paper": ..., "ours": ...} of a run."""
    lines = [line.strip("| ").split(" | ") for line in text.split("\n\n")[0].splitlines()]
    at = lines[0].index(column)
    return {line[1]: line[at] for line in lines[2:] if line[0] == run}


def shown(capsys, *arguments, **options):
    assert write_tables(list(arguments), **options) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("value", ["NaN", "1e999", "-Infinity"])
def test_a_number_that_is_none_is_refused(tmp_path, value):
    path = report(tmp_path, "mmhal", {"average_score": 0.5})
    text = Path(path).read_text().replace("0.5", value)
    Path(path).write_text(text)
    with pytest.raises(InputError, match=r"metrics.average_score must be a finite number"):
        write_tables([path])


def test_deep_nesting_is_named_and_the_output_folder_is_made(tmp_path):
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 200_000)
    with pytest.raises(InputError, match=r"deep.json: not JSON"):
        write_tables([str(deep)])
    output = tmp_path / "new" / "table.md"
    assert write_tables([report(tmp_path, "mmhal", {"average_score": 1})], output=str(output)) == 0
    assert output.is_file()


def test_each_headline_has_a_number_of_the_paper():
    assert all(len(values) == len(HEADLINES) for values in PAPER.values())
    assert PAPER[OURS] == (13.72, 6.69, 2.82, 0.48, 2.9, 85.7)


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (0.1372, "13.72 (reproduced)"), (0.1572, "15.72 (reproduced)"), (0.1573, "15.73 (differs)"),
        (0.1172, "11.72 (reproduced)"), (0.1171, "11.71 (differs)"), (None, NOT_RUN),
    ],
)  # fmt: skip
def test_reproduced_ends_at_the_tolerance(tmp_path, capsys, value, cell):
    metrics = {"CHAIRs": 0.5, "CHAIRs_refine": value, "CHAIRi": 0.07}
    path = report(tmp_path, "object_halbench", metrics, answered=LLAVA)
    text = shown(capsys, f"run={OURS}", path)
    assert cells(text, OURS, "ObjHal CHAIRs") == {"paper": "13.72", "ours": cell}
    assert cells(text, OURS, "ObjHal CHAIRi") == {"paper": "6.69", "ours": "7.00 (reproduced)"}
    assert cells(text, OURS, "MMHal score")["ours"] == NOT_RUN
    assert cells(text, BASE, "ObjHal CHAIRs")["ours"] == NOT_RUN


@pytest.mark.parametrize(
    ("more", "run", "cell"),
    [
        ({"answered": LLAVA}, OURS, "85.7 (reproduced)"),
        ({"answered": LLAVA | {"model": "uedpo:micro_llava"}}, OURS, "85.7 (another model)"),
        ({"answered": LLAVA}, BASE, "85.7 (another model)"),
        ({"answered": LLAVA | {"adapter_sha256": None}}, BASE, "85.7 (differs)"),
        ({"partial": True}, OURS, "85.7 (subset)"),
        ({"mode": "strict"}, OURS, "85.7 (strict mode)"),
        ({}, OURS, "85.7 (reproduced, model by label only)"),
        ({}, "mine", "85.7"),
    ],
)
def test_only_the_right_model_is_compared(tmp_path, capsys, more, run, cell):
    path = report(tmp_path, "amber_discriminative", {"F1": 85.7}, **more)
    assert cells(shown(capsys, f"run={run}", path), run, "AMBER-d F1")["ours"] == cell


def test_missing_number_of_the_paper_is_compared_with_nothing(tmp_path, capsys):
    path = report(tmp_path, "amber_discriminative", {"F1": 80.0})
    found = cells(shown(capsys, "run=mDPO, 10k", path), "mDPO, 10k", "AMBER-d F1")
    assert found == {"paper": "-", "ours": "80.0"}


def test_runs_are_named_by_folder_unless_told(tmp_path, capsys):
    first = report(tmp_path / "first", "pope", {"f1": 0.8, "accuracy": None})
    second = report(tmp_path / "second", "pope", {"f1": 0.7}, versions={"judge": "gpt|4"})
    text = shown(capsys, first, "run=<b>", second)
    assert "| first | pope | f1 | 0.8 | official |  | pope.json |" in text
    assert "| first | pope | accuracy | null |" in text
    assert r"| &lt;b&gt; | pope | f1 | 0.7 | official | gpt\|4 | pope.json |" in text


def test_files_hold_the_same_and_html_is_escaped(tmp_path, capsys):
    name = '<script>alert("x")</script>'
    path = report(tmp_path, "chair", {"<i>CHAIRs": 0.25})
    files = {"output": str(tmp_path / "t.md"), "html": str(tmp_path / "t.html")}
    text = shown(capsys, f"run={name}", path, **files)
    assert (tmp_path / "t.md").read_text() == text
    page = (tmp_path / "t.html").read_text()
    tags = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag, attributes):
            tags.append(tag)

    Tags().feed(page)
    assert "script" not in tags
    assert "i" not in tags
    assert "&lt;script&gt;" in page
    assert "13.72" in page


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "r.json: not JSON"), ("[]", "r.json: must be an object"),
        ('{"mode": "official"}', "benchmark must be"),
        ('{"benchmark": "a", "mode": "official", "metrics": []}', "metrics must be an object"),
        ('{"benchmark": "a", "mode": "official", "metrics": {"f1": "x"}}', "f1 must be a finite number"),
        ('{"benchmark": "a", "mode": "official", "metrics": {"f1": true}}', "f1 must be a finite number"),
        ('{"benchmark": "a", "mode": "b", "metrics": {}, "answered": 3}', "answered and versions"),
    ],
)  # fmt: skip
def test_broken_reports_are_named(tmp_path, text, message):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(InputError, match=message):
        write_tables([str(tmp_path / "r.json")])


def test_two_reports_of_a_headline_are_refused(tmp_path):
    paths = [report(tmp_path, "mmhal", {"average_score": 2.0}, name) for name in ("a", "b")]
    with pytest.raises(InputError, match=r"b.json: x has .*a.json for mmhal"):
        write_tables(["run=x", *paths])
    with pytest.raises(InputError, match="no report given"):
        write_tables(["run=x"])
    with pytest.raises(InputError, match="no such file"):
        write_tables([str(tmp_path / "none.json")])
