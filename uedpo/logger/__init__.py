"""Where metrics go while a run trains: a CSV file, Weights & Biases."""
