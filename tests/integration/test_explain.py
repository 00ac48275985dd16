"""`python -m uedpo.explain` on a tiny scale; the model is the shipped one."""

import io
import sys

import pytest
from PIL import Image
from rich.console import Console

from tests.unit.test_report_parts import token
from uedpo import explain
from uedpo.config.command_line import split
from uedpo.errors import ConfigError, InputError
from uedpo.report.terminal import show

PAIR = {"prompt": "Describe the image.", "chosen": "A red cow, here.", "rejected": "A {blue} cow = x."}


@pytest.fixture(scope="module")
def processor():
    from uedpo.model.hf import HFModel

    return HFModel("uedpo:micro_llava").processor()


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "cat.jpg"
    Image.new("RGB", (60, 40), (200, 10, 10)).save(path)
    return path


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["explain", *map(str, arguments)])
    monkeypatch.setattr("uedpo.config.command_line.redact.install", lambda: None)
    code = explain.main()
    return code, *capsys.readouterr()


def test_split_takes_texts_as_they_are():
    own, overrides = split(
        ["image=a.jpg", "prompt=a=b, {c}", "chosen=x", "rejected=", "seed=1", "+method=ipo"], explain.OWN
    )
    assert own == {"image": "a.jpg", "prompt": "a=b, {c}", "chosen": "x", "rejected": ""}
    assert overrides == ["seed=1", "+method=ipo"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["image=a.jpg"], "prompt, chosen, rejected: missing"), (["cat.jpg"], "cat.jpg: write key=value"),
        (["-m"], "write key=value"), (["image=a", "image=b"], "image: given twice"),
        (["seed=1,2"], "seed: one value"), (["weights.alpa=1"], "did you mean weights.alpha"),
        (["weights.alpha=7"], "weights.alpha=7"), (["+method=dpo"], "use weights=uncertainty"),
        (["model._target_=os.system"], "is not allowed"), (["optim.lr=["], ""),
        (["output=/no/such/folder/x.html"], "no such folder"),
    ],
)  # fmt: skip
def test_bad_arguments_exit_2_before_weights_load(monkeypatch, capsys, arguments, words):
    monkeypatch.setattr(explain, "load_scores", None)
    code, out, err = run(monkeypatch, capsys, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) <= 3
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": "http://x/cat.jpg"}, "nothing is fetched"), ({"image": "none.jpg"}, "no such file"),
        ({"image": "a\0b"}, "no such file"), ({"chosen": " "}, "chosen must be a text"),
        ({"rejected": PAIR["chosen"]}, "and chosen are the same"), ({"prompt": "<image> x"}, "holds"),
        ({"image": __file__}, "not a picture"), ({"image": "/"}, "no regular file"),
    ],
)  # fmt: skip
def test_bad_pairs_are_one_line(processor, picture, change, words):
    with pytest.raises(InputError, match=words) as caught:
        explain.own_pair({"image": str(picture), **PAIR, **change}, processor)
    assert len(str(caught.value).splitlines()) == 1


def test_own_pair_is_explained(monkeypatch, capsys, picture, tmp_path):
    texts = [f"{key}={value}" for key, value in PAIR.items()]
    page = tmp_path / "page.html"
    code, out, err = run(
        monkeypatch, capsys, f"image={picture}", *texts, f"output={page}", "weights.alpha=0.7", "threads=1"
    )
    assert code == 0, err
    assert "cat.jpg, base model" in out
    assert out.splitlines()[-1] == f"open {page}"
    assert "alpha 0.7" in page.read_text()
    assert "blue" in page.read_text()
    assert page.read_text().count('src="data:image/webp') == 2


def shown(**options):
    sides = {"before": [token("\x1b[31m cow", u=2.0, weight=1.3), token(" sat", weight=0.8, delta=-2.0)]}
    console = Console(file=io.StringIO(), width=80, **options)
    show({"id": "x", "prompt": "p", "chosen": sides, "rejected": sides}, "before", "base model", console)
    return console.file.getvalue()


def test_terminal_has_colours_where_there_are_some():
    coloured = shown(force_terminal=True, color_system="truecolor", no_color=False)
    assert "\x1b[1;4;38;2;0;0;0;48;2;240;150;68m" in coloured
    assert "\x1b[31m" not in coloured
    for plain in (
        shown(),
        shown(force_terminal=True, color_system="truecolor", no_color=True),
    ):
        assert "\x1b[38" not in plain
        assert "48;2" not in plain
        assert "1.300" in plain


def test_sweeps_are_refused_by_name():
    with pytest.raises(ConfigError, match="seed: one value, no sweep"):
        explain.composed(["seed=1,2"])


def test_empty_values_and_a_folder_as_output_are_refused_at_once(tmp_path, monkeypatch, capsys):
    code, _, said = run(monkeypatch, capsys, "output=", "adapter=")
    assert code == 2
    assert "output: is empty" in said
    assert "adapter: is empty" in said
    code, _, said = run(monkeypatch, capsys, f"output={tmp_path}")
    assert (code, said) == (2, f"output={tmp_path}: is a folder; name a file in it\n")
