"""What every command does once before its own work, done here before `tests.processes` forks any.

Signatures are read, plugins of Hydra found, templates compiled and tables of transformers built when first
asked for. No state of a run is left behind.
"""

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from uedpo.config.overrides import check_overrides
from uedpo.report.templates import TEMPLATES

check_overrides([])
get_checkpoint_conversion_mapping("llava")
TEMPLATES.get_template("page.html.j2")
