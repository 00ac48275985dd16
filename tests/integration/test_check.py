"""`python -m uedpo.check`: lengths, rejected rows and a page, without weights; exit codes 0 and 2."""

import dataclasses
import html.parser
import json
import sys

import pytest

from tests.rows_of_formats import CHOSEN, REJECTED, SAME, TURN, answer, write_json
from tests.unit.test_report import HOSTILE
from uedpo import check
from uedpo.data.collate import PairCollator
from uedpo.data.survey import measure, quantiles
from uedpo.errors import InputError
from uedpo.microworld.data import MicroWorldPairs
from uedpo.model.hf import HFModel


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """run("key=value", ...) -> (exit code, stdout, stderr), in a folder of its own, where no weights load."""

    def go(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["check", *arguments])
        with pytest.raises(SystemExit) as stopped:
            check.main()
        return stopped.value.code, *capsys.readouterr()

    monkeypatch.setattr("uedpo.model.hf.HFModel.base", lambda self: pytest.fail("weights were loaded"))
    return go


class Inert(html.parser.HTMLParser):
    """Notes every tag, and fails on what could run or fetch."""

    def __init__(self):
        super().__init__()
        self.tags, self.text = set(), ""

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for name, value in attributes:
            assert not name.startswith("on")
            assert name not in ("href", "srcset", "data", "action")
            if name == "src":
                assert value.startswith("data:image/png;base64,")

    def handle_data(self, data):
        self.text += data


def page_of(folder):
    page = Inert()
    text = (folder / "check.html").read_text(encoding="utf-8")
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text
    page.feed(text)
    assert not page.tags & {"script", "iframe", "object", "embed", "form", "link", "base", "svg", "a"}
    return page


def test_the_default_configuration_needs_no_argument_but_time(run, tmp_path):
    code, out, err = run("data.train.num_pairs=8", "data.val.num_pairs=4")
    assert code == 0, err
    assert "train: 8 rows; images a row: 1 in 8 rows" in out
    assert "  image           64      64      64      64      64" in out
    assert "cut at data.max_response_tokens=128: 0 responses (0.0 %)" in out
    assert out.endswith("open outputs/default/check.html\n")
    page = page_of(tmp_path / "outputs" / "default")
    assert "<image> x64" in page.text
    assert "</s>" in page.text


def test_rows_are_shown_as_the_model_gets_them_and_stay_inert(run, tmp_path):
    swift = {"messages": [TURN, *answer(CHOSEN)], "images": ["a.png"], "rejected_response": REJECTED}
    rows = [
        swift | {"rejected_images": ["b.png"], "weight": 2, "chosen_weights": [[0, 5, 3]]},
        swift | {"rejected_response": "a cow " * 30},
        *(swift | {"rejected_response": text} for text in HOSTILE[:4]),
        swift | {"rejected_response": CHOSEN},
        swift | {"images": [HOSTILE[0]]},
        {"messages": [{"role": "user", "content": "Hi?"}, *answer(CHOSEN)], "rejected_response": REJECTED},
    ]
    path = write_json(tmp_path / "rows.jsonl", [*rows, *rows[-1:] * 3])
    code, out, err = run(
        "data=files", f"data.path={path}", "data.num_workers=0", "data.max_bad_fraction=0.5",
        "weights=columns",
        "data.max_response_tokens=20", "data.val_share=0.1", "name=mine", "evaluation=none",
    )  # fmt: skip
    assert code == 0, err
    assert (
        "(format swift, detected): 11 rows read = 9 used + 2 rejected (1 IDENTICAL_PAIR, 1 IMAGE_MISSING;"
        in out
    )
    assert "train: 9 rows; images a row: 0 in 3 rows, 1 in 6 rows" in out
    folder = tmp_path / "outputs" / "mine"
    assert [json.loads(line)["line"] for line in (folder / "rejected.jsonl").read_text().splitlines()] == [
        7,
        8,
    ]
    page = page_of(folder)
    assert "image 1, rejected" in page.text
    assert "(weight 2.0)" in page.text
    assert "3.00" in page.text
    assert all(text.strip() in page.text for text in HOSTILE[:4])
    assert "20 in the loss, " in page.text
    assert '<span class="t cut">' in (folder / "check.html").read_text(encoding="utf-8")


def test_bad_input_is_exit_code_2_and_one_message(run, tmp_path, monkeypatch):
    path = write_json(
        tmp_path / "rows.jsonl", [SAME["trl"][0], SAME["trl"][0] | {"images": ["none.png"]}] * 3
    )
    files = ["data=files", "evaluation=none", "data.num_workers=0"]
    for arguments, part in (
        (["weights.alpa=1"], "did you mean weights.alpha?"),
        (["data._target_=os.system"], "data._target_='os.system': is not allowed"),
        ([*files, "data.path=none.jsonl"], "no such file"),
        ([*files, f"data.path={path}"], "rows.jsonl:2: image 'none.png' is not a file inside"),
        (["model.path=none"], "model.path=none: is not on this machine"),
        (["name=~/x"], "name=~/x: cannot be read; quote a value with spaces or signs, as in 'name="),
        (["rows.jsonl"], "rows.jsonl: cannot be read; write key=value"),
    ):
        code, _, err = run(*arguments)
        assert code == 2, arguments
        assert part in err
        assert "Traceback" not in err
    rejected = tmp_path / "outputs" / "default" / "rejected.jsonl"
    assert len(rejected.read_text().splitlines()) == 2


def test_help_is_help(run):
    code, out, _ = run("--help")
    assert code == 0
    assert "before any weights load" in out


def test_what_a_run_refuses_of_the_model_is_refused_here(run, monkeypatch):
    monkeypatch.setattr("uedpo.model.families.llava.Llava.tiles", True)
    code, _, err = run("corruption=crop")
    assert code == 2
    assert "corruption=Crop: model type 'llava' cuts images into tiles" in err
    monkeypatch.setattr("uedpo.model.families.llava.Llava.shares_prefixes", False)
    code, _, err = run()
    assert code == 2
    assert "scoring=plain" in err


def test_rows_that_would_stop_a_run_are_named(run, tmp_path, monkeypatch):
    path = write_json(tmp_path / "rows.jsonl", [SAME["trl"][0]] * 3)
    monkeypatch.setattr("uedpo.data.collate.token_limit", lambda tokenizer: 70)
    code, out, err = run("data=files", f"data.path={path}", "data.num_workers=0", "evaluation=none")
    assert code == 2
    assert "row rows.jsonl:1: needs" in err
    assert "3 rows would stop a run" in err
    assert "2 rows cannot be collated" in out
    assert "Rows that would stop a run" in page_of(tmp_path / "outputs" / "default").text


def test_placeholders_that_do_not_fit_the_images_are_found():
    source = HFModel("uedpo:micro_llava")
    processor, config = source.processor(), source.config()
    pair, collate = MicroWorldPairs("val", 1)[0], PairCollator(processor, 50)
    blind = dataclasses.replace(pair, image=None)
    assert measure(pair, collate, config).problem == ""
    assert measure(blind, collate, config).problem == ""
    processor.patch_size = 24  # another model's
    with pytest.raises(
        InputError, match=f"row {pair.id}: 16 image placeholders in the prompt, its image gives 64"
    ):
        measure(pair, collate, config)
    processor.chat_template = processor.chat_template.replace("<image>", "")
    with pytest.raises(InputError, match=f"row {pair.id}: the processor refuses its prompt and images"):
        measure(pair, collate, config)


def test_quantiles_are_values_that_are_there():
    assert quantiles(list(range(1, 101))) == [1, 50, 90, 99, 100]
    assert quantiles([7]) == [7] * 5
