"""Callbacks that watch; the one that weighs tokens is `uedpo.weights.probe`."""
