import os
from pathlib import Path

import pytest

from tests.browser.chromium import Chromium, find

AXE = Path(os.environ.get("UEDPO_AXE", Path(__file__).parents[2] / "build/axe/package/axe.min.js"))


def _missing(what):
    if os.environ.get("UEDPO_BROWSER") == "required":
        pytest.fail(f"UEDPO_BROWSER=required, and there is no {what}")
    pytest.skip(f"no {what}")


@pytest.fixture(scope="session")
def browser():
    path = find()
    if path is None:
        _missing("chromium on PATH; apt-get install chromium, or set UEDPO_CHROMIUM")
    found = Chromium(path)
    yield found
    found.close()


@pytest.fixture(scope="session")
def axe():
    if not AXE.is_file():
        _missing(f"{AXE}; make axe, or set UEDPO_AXE")
    return AXE.read_text(encoding="utf-8")
