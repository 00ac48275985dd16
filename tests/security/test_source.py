"""The source itself: what it never calls or imports, and what the lock file pins."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "uedpo"


BANNED = {"eval", "exec", "compile", "__import__"}
BANNED_IMPORTS = set(
    ["pickle", "marshal", "shelve", "dill", "cloudpickle", "requests", "urllib", "httpx", "socket", "runpy"]
)


# what talks to a network: the judge's endpoint, named by the user, redirects refused; and the question
# whether W&B's server or the model hub is there, for a run that is to use it
MAY_CALL_OUT = {
    PACKAGE / "evaluation" / "endpoint.py": {"urllib", "socket"},
    PACKAGE / "logger" / "wandb.py": {"socket"},
    PACKAGE / "runtime" / "hub.py": {"urllib", "socket"},
    PACKAGE / "__main__.py": {"runpy"},  # of the commands in its own table
}


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: str(f.relative_to(PACKAGE)))
def test_the_source_keeps_to_the_rules(file):
    banned = BANNED_IMPORTS - MAY_CALL_OUT.get(file, set())
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            assert not {a.name.split(".")[0] for a in node.names} & banned
        if isinstance(node, ast.ImportFrom) and node.module != "urllib.parse":  # takes text apart
            assert (node.module or "").split(".")[0] not in banned
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert name not in BANNED
        assert given.get("shell", "False") == "False"
        assert given.get("trust_remote_code", "False") == "False"
        assert given.get("weights_only", "True") == "True"
        if name == "torch.load" or name.endswith("trainer.fit"):
            assert given.get("weights_only") == "True"
        if name.startswith("Auto") and name.endswith(".from_pretrained"):
            assert given["trust_remote_code"] == "False"
        if name == "Environment":
            assert given["autoescape"] == "True"


def test_the_lock_file_holds_what_the_policy_says():
    root = PACKAGE.parent
    entries = (root / "requirements.lock").read_text().replace("\\\n", " ").splitlines()
    pins = {}
    for entry in entries:
        pin, *hashes = entry.split()
        name, pins[name] = pin.split("==")
        assert hashes, name
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", h) for h in hashes), name
    assert not {"lightning", "torch"} & pins.keys()
    version = {
        name: tuple(int(x) for x in pins[name].split(".")[:3]) for name in ("pytorch-lightning", "hydra-core")
    }
    assert version["pytorch-lightning"] >= (2, 6, 6)
    assert version["hydra-core"] >= (1, 3, 8)
    project = (root / "pyproject.toml").read_text()
    assert '"pytorch-lightning>=2.6.6"' in project
    assert '"hydra-core>=1.3.8"' in project
