"""All that reads a configuration before anything is built, and what builds a run's parts from it."""
