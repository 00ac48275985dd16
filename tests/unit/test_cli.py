"""`uedpo COMMAND`: every command, every file of conf/, and what the shell completes."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.config.test_light import COMMANDS as MODULES
from uedpo import __main__ as program
from uedpo.cli import completion, doctor
from uedpo.cli.catalogue import allowed, entries
from uedpo.cli.list import listed
from uedpo.config.choices import conf_folder, group_names
from uedpo.config.overrides import check_overrides
from uedpo.types import Tau


def call(monkeypatch, capsys, *arguments):
    """(exit code, output, errors) of `uedpo *arguments`."""
    monkeypatch.setattr(sys, "argv", ["uedpo", *arguments])
    with pytest.raises(SystemExit) as left:
        program.main()
    return left.value.code or 0, *capsys.readouterr()


def test_every_command_of_the_package_is_one_of_uedpo():
    modules = {module for module, _ in program.COMMANDS.values()}
    built = {"uedpo", "uedpo.results.rekey", *(m for m in MODULES if m.startswith("uedpo.microworld"))}
    assert modules == set(MODULES) - built


@pytest.mark.parametrize("name", program.COMMANDS)
def test_every_command_has_help(monkeypatch, capsys, name):
    code, out, _ = call(monkeypatch, capsys, name, "--help")
    assert code == 0
    assert program.COMMANDS[name][0] in out or f"uedpo {name}" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lst"], "lst: no such command; did you mean list?"),
        (["weights.alpha=1"], "write uedpo run weights.alpha=1"),
        (["+method=dpo", "seed=1"], "write uedpo run +method=dpo seed=1"),
        (["list", "mehtods"], "mehtods: nothing of that name; did you mean method? there are callbacks, "),
        (["list", "loss", "dop"], "did you mean dpo?"),
        (["list", "a", "b", "c"], "give at most WHAT and NAME"),
        (["doctor", "gpu"], "takes no arguments"),
        (["completion", "fish"], "fish: write uedpo completion bash, or zsh"),
    ],
)
def test_what_there_is_not_is_one_line(monkeypatch, capsys, arguments, said):
    code, out, err = call(monkeypatch, capsys, *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert said in err


def test_the_list_has_every_file_of_conf():
    folders = {file.parent.name for file in conf_folder().glob("*/*.yaml")}
    assert set(group_names()) == folders
    overview = listed([])
    for group in folders:
        files = sorted(file.stem for file in (conf_folder() / group).glob("*.yaml"))
        assert [entry.name for entry in entries(group)] == files
        text = listed([group])
        assert all(f"\n{name}\n" in f"\n{text}\n" for name in files)
        assert all(name in overview for name in files)


@pytest.mark.parametrize("group", ["method", "model", "data", "corruption", "experiment", "loss"])
def test_every_file_has_a_sentence(group):
    assert [entry.name for entry in entries(group) if len(entry.sentence) < 10] == []


def test_keys_have_defaults_ranges_and_comments():
    keys = {key.name: key for key in entries("weights")[2].keys}
    assert keys["weights.tau"][1:3] == ("0.4", "a number > 0.0 and <= 0.5")
    assert keys["weights.tau"].comment.startswith("share of tokens selected")
    assert keys["weights.scope"].takes == "response | batch"
    assert allowed(Tau | None) == "a number > 0.0 and <= 0.5 or null"
    assert {"seed", "threads"} <= {key.name for key in entries("config")[0].keys}
    assert listed(["losses"]) == listed(["loss"])


def test_a_default_is_what_a_run_has():
    whole = check_overrides([])
    for group in ("loss", "weights", "corruption", "optim"):
        (name,) = [c.partition("=")[2] for c in entries("config")[0].chooses if c.startswith(f"{group}=")]
        (entry,) = [entry for entry in entries(group) if entry.name == name]
        for key in entry.keys:
            value = whole[group][key.name.partition(".")[2]]
            assert str(value).lower().replace("none", "null") == key.default.lower().replace("none", "null")


def test_devices_are_those_of_the_planner():
    assert all(name in listed(["device"]) for name in ("h100", "a100_80", "rtx4090", "84.9 GB"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("uedpo ex", ["explain", "export"]),
        ("uedpo run loss=d", ["loss=da_dpo", "loss=dpo"]),
        ("uedpo run +met", ["+method="]),
        ("uedpo run +method=ue_dpo_", ["+method=ue_dpo_every4", "+method=ue_dpo_reuse"]),
        ("uedpo run -m seed=1 weights.al", ["weights.alpha="]),
        ("uedpo plan weights.alpha=1 weights.al", []),
        ("uedpo list meth", ["method"]),
        ("uedpo list loss ue", ["ue_dpo"]),
        ("uedpo compare a", []),
    ],
)
def test_words_that_a_line_may_go_on_with(line, words):
    assert completion.words(line) == words


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.slow
def test_bash_completes(tmp_path):
    script = f"""
        uedpo() {{ {sys.executable} -m uedpo "$@"; }}
        compopt() {{ :; }}
        source <(uedpo completion bash)
        for COMP_LINE in "uedpo dash" "uedpo run weights=uni" "uedpo run weights.ta"; do
          COMP_POINT=${{#COMP_LINE}}; _uedpo; echo "${{COMPREPLY[*]}}"
        done"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.splitlines() == ["dashboard", "uniform", "weights.tau="]


def test_the_doctor_says_what_this_machine_has():
    said = doctor.report([]).splitlines()
    names = [line.split()[0] for line in said if not line.startswith("  ")]
    assert {"python", "torch", "peft", "attention", "[data]", "hub", "disk"} <= set(names)
    assert all(line.startswith("  -> ") for line in said if line.startswith("  "))


def test_the_doctor_names_what_is_missing_and_how_to_get_it(monkeypatch):
    def missing(name):
        raise doctor.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", missing)
    said = doctor.report([])
    assert "peft               missing\n  -> pip install 'peft>=" in said
    assert "  -> pip install 'uedpo[data]' (datasets)" in said
    monkeypatch.setattr(doctor, "version", lambda name: "0.1")
    assert "outside of what was tested; pip install 'torch>=" in doctor.report([])
