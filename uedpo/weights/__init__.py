"""Token weights: signals and formulas (pure), image corruption, and the callback that applies them."""
