"""Where metrics go while a run trains: a CSV file, Weights & Biases."""

STEP = "trainer/global_step"  # what W&B plots the metrics over
