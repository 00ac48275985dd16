"""What knows nothing of machine learning: files, locks, signals, ranks, progress, secrets, versions."""
