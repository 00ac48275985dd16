"""Errors of bad input: one line each, no traceback. Apart from `types`, so that scoring needs no torch."""


class InputError(ValueError):
    """Data or a model that cannot be used; the message says what, where, and the remedy."""


class ConfigError(Exception):
    """One or more configuration problems, one a line."""
