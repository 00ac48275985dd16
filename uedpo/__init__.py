"""uedpo: uncertainty-aware exploratory DPO (arXiv 2605.04874) and its experiments."""

__version__ = "0.1.0"
