"""The programs of docs/own_loop.md, and what `import uedpo` offers."""

import ast
import os
import re
from pathlib import Path

import pytest
import torch

import uedpo
from tests.processes import run
from tests.reference import twins
from uedpo.weights.uncertainty import ue_dpo_weights

ROOT = Path(__file__).parents[2]


def printed(number, folder):
    """What the program of that number in the docs prints."""
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs/own_loop.md").read_text(), re.DOTALL)[number]
    assert len([line for line in code.splitlines() if line.strip()]) <= 40
    programs = folder.with_name(folder.name + "_programs")
    programs.mkdir()
    (programs / "program.py").write_text(code)
    done = run("program", cwd=folder, env=os.environ | {"PYTHONPATH": f"{ROOT}:{programs}"})
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_the_lightning_program_in_the_docs_trains(tmp_path):
    metrics = ast.literal_eval(printed(1, tmp_path).splitlines()[-1])
    assert metrics["train/loss"] > 0
    assert 1 < metrics["weights/chosen"] < 1.3
    assert (tmp_path / "adapter/adapter_model.safetensors").is_file()


def test_the_loop_in_the_docs_trains(tmp_path):
    lines = [line for line in printed(0, tmp_path).splitlines() if line.startswith("step ")]
    losses = [float(re.search(r"loss ([\d.]+)", line)[1]) for line in lines]
    assert len(losses) == 10
    assert losses[-1] < losses[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("branch", ["chosen", "rejected"])
def test_one_call_gives_the_weights_of_the_paper(branch):
    generator = torch.Generator().manual_seed(3)
    clear, corrupted = torch.randn(2, 4, 9, 30, generator=generator, dtype=torch.float64)
    tokens = torch.randint(0, 30, (4, 9), generator=generator)
    mask = torch.arange(9)[None] < torch.tensor([9, 5, 1, 0])[:, None]
    weights = ue_dpo_weights(clear, corrupted, tokens, mask, branch=branch, alpha=0.3, tau=0.4)
    logits = clear.numpy(), corrupted.numpy(), tokens.numpy()
    u, delta = twins.uncertainty(*logits), twins.sensitivity(*logits)
    expected = twins.weights(u, delta, mask.numpy(), branch, 0.3, 0.4)
    assert torch.allclose(weights, torch.as_tensor(expected), rtol=0, atol=1e-12)
    assert torch.equal(weights[~mask], torch.ones_like(weights[~mask]))
    assert torch.equal(
        ue_dpo_weights(clear, corrupted, tokens, mask, branch=branch, alpha=0), torch.ones(4, 9).double()
    )


def test_every_public_name_can_be_imported_and_has_a_type():
    assert all(getattr(uedpo, name) is not None for name in dir(uedpo))
    tree = ast.parse((ROOT / "uedpo/__init__.py").read_text())
    typed = {a.asname for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names if a.asname}
    assert typed | {"__version__"} == set(dir(uedpo))
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = uedpo.nope
    assert (ROOT / "uedpo/py.typed").is_file()
