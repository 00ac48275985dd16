"""What finished runs measured: stored, read back, and compared. Knows no model."""
