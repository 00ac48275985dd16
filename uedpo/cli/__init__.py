"""What `uedpo` answers beyond the commands of this package: `list`, `doctor`, `completion`."""
