"""A whole model from a base and an adapter, for programs that take no adapter:

python experiments/benchmarks/merge_adapter.py BASE ADAPTER OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

from uedpo.evaluation.generate import load_model
from uedpo.model.hf import HFModel


def main(base: str, adapter: str, out: str) -> None:
    model, processor = load_model(HFModel(base, dtype="bfloat16"), Path(adapter))
    model.merge_and_unload().save_pretrained(out)
    processor.save_pretrained(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
