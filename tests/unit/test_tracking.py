"""W&B options, and text of models in its tables."""

import os

import pytest

from tests.unit.test_report import HOSTILE
from uedpo.errors import InputError
from uedpo.logger import wandb as tracking
from uedpo.logger.wandb import SUMMARIES, WandbRun, colored


@pytest.fixture(autouse=True)
def _own_media_folder(monkeypatch):
    """A logger says in the environment where media wait, which later tests' processes would inherit."""
    monkeypatch.setattr(tracking, "_staging", None)
    monkeypatch.setenv("WANDB_DATA_DIR", "")  # so that what was there before comes back
    monkeypatch.delenv("WANDB_DATA_DIR")


def test_online_without_a_server_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "unreachable", lambda: "no answer")
    with pytest.raises(InputError, match="mode=online: no answer; mode=offline keeps everything on disk"):
        WandbRun(str(tmp_path), mode="online")


def test_auto_says_that_it_is_offline(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tracking, "unreachable", lambda: "no answer")
    assert WandbRun(str(tmp_path))._wandb_init["mode"] == "offline"
    assert capsys.readouterr().out == "W&B is offline: no answer\n"
    monkeypatch.setattr(tracking, "unreachable", lambda: None)
    assert WandbRun(str(tmp_path))._wandb_init["mode"] == "online"


def test_a_run_directory_keeps_its_run(tmp_path):
    first, second = (WandbRun(str(tmp_path), mode="offline") for _ in range(2))
    assert first._wandb_init["id"] == second._wandb_init["id"]
    other = tmp_path / "other"
    other.mkdir()
    assert WandbRun(str(other), mode="offline")._wandb_init["id"] != first._wandb_init["id"]


def test_unreachable_names_what_is_missing(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert tracking.unreachable() == "WANDB_MODE=offline"


def test_looking_for_a_key_prints_nothing(tmp_path, monkeypatch, capfd):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert "there is no API key" in tracking.unreachable()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("text", HOSTILE)
def test_tokens_are_escaped(text):
    page = str(colored([{"text": text, "weight": 1.3, "logp": -1.0}, {"text": "b"}], "chosen"))
    assert page.count("<") == page.count("</") * 2
    assert page.count("<span") == 2
    assert "<script" not in page
    assert "rgba(230, 120, 0, 0.60)" in page


def test_summaries_have_stable_prefixes():
    assert {name.split("/")[0] for name in SUMMARIES} <= set(tracking.PREFIXES)
