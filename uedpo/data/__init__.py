"""Preference data: a dataset is a sequence of `PreferencePair`; the data module batches any of them."""
