"""Names, rows and replies of others act on no terminal, whoever prints them."""

import ast
import io
import json
import logging
import sys
from pathlib import Path

import pytest

from uedpo.errors import InputError, clean, plain_line
from uedpo.evaluation import judge, score
from uedpo.evaluation.options import command
from uedpo.runtime import redact
from uedpo.runtime.say import say

PACKAGE = Path(__file__).parents[2] / "uedpo"
ACTS = {
    "colour": "\x1b[31m", "title": "\x1b]0;evil\x07", "clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "link": "\x1b]8;;http://evil\x1b\\", "clear": "\x1b[2J", "device": "\x1bP+q\x1b\\", "eight": "\x9b31m",
    "bell": "\x07", "back": "\x08\x08", "return": "\rok", "round": "\u202eevil", "isolate": "\u2066x",
    "line": "\u2028x", "half": "\udc80", "delete": "\x7f",
}  # fmt: skip
every_act = pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
# what draws on terminals itself, or is run by nobody but the authors
MAY_PRINT = {"runtime/say.py"} | {
    f"microworld/{name}.py" for name in ("assets", "build", "language", "negatives", "vision")
}


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: str(f.relative_to(PACKAGE)))
def test_lines_for_a_person_go_through_one_place(file):
    if str(file.relative_to(PACKAGE)) in MAY_PRINT:
        return
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in ("print", "sys.stdout.write", "sys.stderr.write"), name


@every_act
def test_what_is_said_is_clean(act, capsys):
    say(f"a{act}b", InputError(f"c{act}"))
    say(f"a{act}b", file=sys.stderr)
    out, err = capsys.readouterr()
    for text in (out, err, plain_line(InputError(act))):
        assert not any(piece in text for piece in ("\x1b", "\x07", "\x08", "\x9b", "\u202e", "\u2066", "\r"))
        assert act not in text
    assert out.endswith("\n")


def test_what_people_write_stays():
    for text in ("plain", "tab\tand\nline", "naïve café", "日本語　全角", "a\xa0b", "🙂", "±"):
        assert clean(text) == text


@every_act
def test_streams_and_logs_let_libraries_draw_and_nothing_else(act, monkeypatch):
    outs = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", outs[0])
    monkeypatch.setattr(sys, "stderr", outs[1])
    factory = logging.getLogRecordFactory()
    try:
        redact.install()
        record = logging.getLogRecordFactory()("x", 20, "f", 1, "a%sb", (act,), None)
        assert act not in record.getMessage()
        sys.stdout.write(f"a{act}b")
        sys.stdout.write("\x1b[1A\x1b[2K\x1b[32mok\x1b[0m\r")
    finally:
        logging.setLogRecordFactory(factory)
    drawn = act in ("\x1b[31m", "\x1b[2J", "\rok", "\x08\x08", "\u2028x", "\udc80")
    assert outs[0].getvalue().startswith(f"a{act}b") == drawn
    assert outs[0].getvalue().endswith("\x1b[1A\x1b[2K\x1b[32mok\x1b[0m\r")


@every_act
def test_commands_say_no_name_raw(act, tmp_path, monkeypatch, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({f"evil{act}": 1, "prompt": act}) + "\n")
    calls = {
        "judge": [f"benchmark={act}", f"model={act}", f"answers={rows}", f"replies={tmp_path / 'r'}"],
        "score": [f"benchmark=chair{act}", f"answers={rows}", f"output={tmp_path / act[:0]}x{act}"],
        "compare": [str(rows)],
    }
    monkeypatch.setattr(sys, "argv", ["x", *calls["judge"]])
    with pytest.raises(SystemExit):
        command(judge.judge_answers)
    assert score.main(calls["score"]) == 2
    from uedpo import compare

    monkeypatch.setattr(sys, "argv", ["x", *calls["compare"]])
    with pytest.raises(SystemExit):
        compare.main()
    text = "".join(capsys.readouterr())
    assert text.count("\n") >= 3
    assert act not in text
