"""Sweeps: what each trial of a Hydra multirun did, kept so that the same command goes on where it stopped."""
