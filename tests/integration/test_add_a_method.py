import os
import re
import shlex
from pathlib import Path

import pytest

from tests.integration.test_run import TINIER
from tests.processes import run

DOC = Path(__file__).parents[2] / "docs" / "add_a_method.md"


@pytest.mark.slow
def test_the_walk_works_as_it_stands(tmp_path):
    text = DOC.read_text()
    names = []
    for name, body in re.findall(r"```\w+\n# (\S+)\n(.*?)```", text, flags=re.DOTALL):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body)
        names.append(name)
    assert names == ["focal.py", "conf/loss/focal.yaml", "test_focal.py"]
    command = shlex.split(re.search(r"```\npython -m (uedpo\.run .*)\n```", text).group(1))
    where = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(DOC.parents[1])}}
    tests = run("pytest", "-q", "test_focal.py", **where)
    assert "2 passed" in tests.stdout, tests.stdout
    out = f"hydra.run.dir={tmp_path / 'run'}"
    done = run(*command, *TINIER, out, **where)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "report.html").is_file()
    bad = run(*command, "loss.gamma=-1", **where)
    assert bad.returncode == 2
    assert "loss.gamma=-1" in bad.stderr
    key = command.pop()
    assert key == "allow_packages=[focal]"
    refused = run(*command, **where)
    assert refused.returncode == 2
    assert "loss._target_='focal.focal_dpo_loss': is not allowed" in refused.stderr
