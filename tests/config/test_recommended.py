"""What a message or a page recommends exists: every data= takes the options that are recommended for all."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from uedpo.config.overrides import check_overrides, conf_folder

ROOT = Path(__file__).parents[2]
TEXTS = [*(ROOT / "uedpo").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
# those that say where pairs are read from, which each data= has in its own way
PLACES = {"path", "val_path", "format", "train", "val", "source", "image_root", "revision"}
VALUES = {"overlap": "stop", "negatives": "true", "decode_check": "true", "max_bad_fraction": "0.1"}
GROUPS = sorted(path.stem for path in (conf_folder() / "data").glob("*.yaml"))
NEEDED = {
    "files": ["data.path=a.jsonl"],
    "jsonl": ["data.train.path=a.jsonl", "data.val.path=b.jsonl"],
}


def recommended():
    found = {name for path in TEXTS for name in re.findall(r"\bdata\.([a-z_]+)=", path.read_text())}
    return sorted(found - PLACES)


def test_there_are_recommendations():
    assert {"overlap", "negatives", "max_bad_fraction", "batch_size"} <= set(recommended())


@pytest.mark.parametrize("group", GROUPS)
def test_recommended_options_exist_for_every_data(group):
    changes = [f"data.{name}={VALUES.get(name, 16)}" for name in recommended()]
    given = [f"data={group}", "evaluation=none", "+method=napo", *NEEDED.get(group, []), *changes]
    check_overrides(given)
    if group == "microworld":
        return  # made by the program: no message about files is said of it
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        compose("config", given)  # Hydra itself takes it without a +
