"""The shipped results files still have the trials of the experiments that made them."""

import itertools

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from uedpo.config.overrides import conf_folder
from uedpo.results.keys import key_of, trial_config
from uedpo.results.store import read_rows


def choices(params):
    for line in (f"{key}={value}" for key, value in params.items()):
        (override,) = OverridesParser.create().parse_overrides([line])
        sweeps = override.is_sweep_override()
        values = override.sweep_string_iterator() if sweeps else [override.get_value_element_as_str()]
        yield [f"{override.get_key_element()}={value}" for value in values]


@pytest.mark.slow
def test_every_trial_of_the_stored_experiments_is_found():
    counts = {}
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        for file in sorted((conf_folder() / "experiment").glob("*.yaml")):
            chosen = f"+experiment={file.stem}"
            whole = compose("config", [chosen], return_hydra_config=True)
            if whole.hydra.sweeper.params and whole.results:
                rows = read_rows(conf_folder().parent / whole.results)
                trials = itertools.product(*choices(whole.hydra.sweeper.params))
                found = [
                    key_of(trial_config(compose("config", [chosen, *trial]))) in rows for trial in trials
                ]
                counts[file.stem] = (sum(found), len(found))
    assert sum(count for count, _ in counts.values()) == 337
    assert all(count == total for count, total in counts.values()), counts
