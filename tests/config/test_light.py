"""What is imported before it is known that there is something to compute. Counted, not timed."""

import re
import subprocess
import sys

import pytest

import uedpo.loss

HEAVY = {
    "torch", "transformers", "pytorch_lightning", "lightning_fabric", "diffusers", "peft", "wandb",
    "matplotlib", "datasets", "optuna",
}  # fmt: skip
COMMANDS = [
    "uedpo", "uedpo.run", "uedpo.check", "uedpo.plan", "uedpo.explain", "uedpo.export", "uedpo.compare",
    "uedpo.dashboard", "uedpo.report", "uedpo.evaluation.generate", "uedpo.evaluation.judge",
    "uedpo.evaluation.score", "uedpo.evaluation.merge", "uedpo.evaluation.table", "uedpo.microworld.assets",
    "uedpo.microworld.build", "uedpo.microworld.negatives", "uedpo.results.rekey", "uedpo.cli.list",
    "uedpo.cli.doctor", "uedpo.cli.completion",
]  # fmt: skip


def heavy(*arguments, code=0):
    """(what of `HEAVY` a Python process imports, its output)."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr[-2000:]
    imported = set(re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE))
    assert len(imported) > 20  # or nothing is counted
    return HEAVY & imported, done.stdout + re.sub(r"^import time:.*\n", "", done.stderr, flags=re.MULTILINE)


def test_what_is_heavy_is_found():
    assert "matplotlib" in heavy("-c", "import uedpo.report.page, matplotlib")[0]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.cases(5)
def test_help_imports_nothing_heavy(command):
    found, text = heavy("-m", command, "--help")
    assert found == set()
    assert re.search(r"python -m uedpo|uedpo (COMMAND|list|doctor|completion)", text)


@pytest.mark.parametrize("command", ["uedpo.run", "uedpo.check", "uedpo.plan", "uedpo.explain"])
@pytest.mark.cases(2)
def test_a_mistyped_key_imports_nothing_heavy(command):
    found, text = heavy("-m", command, "weights.alpa=1", code=2)
    assert found == set()
    assert "did you mean weights.alpha?" in text


VALIDATED = [
    [],
    ["model=llava15_7b", "data=rlhf_v", "trainer=gpu", "callbacks=periodic", "logger=wandb"],
    ["+experiment=controls", "+method=mdpo"],
    ["data=files", "data.path=a", "weights=columns", "corruption=blur", "evaluation=none"],
]


@pytest.mark.parametrize(
    "validated",
    [VALIDATED, pytest.param([["+method=mdpo"], ["+experiment=compare_methods"]], marks=pytest.mark.slow)],
)
def test_validation_imports_nothing_heavy(validated):
    code = f"""
import sys
from uedpo.config.overrides import check_overrides
for overrides in {validated}:
    check_overrides(overrides)
    print(overrides, sorted({HEAVY} & set(sys.modules)))
"""
    found, text = heavy("-c", code)
    assert text.splitlines() == [f"{overrides} []" for overrides in validated]
    assert found == set()


def test_modules_that_all_start_with_are_light():
    assert heavy("-c", "import uedpo, uedpo.types, uedpo.loss, uedpo.run, hydra")[0] == set()


def test_losses_are_there_by_name():
    for name in uedpo.loss.__all__:
        assert getattr(uedpo.loss, name) is not None
    with pytest.raises(ImportError):
        from uedpo.loss import nope  # noqa: F401
