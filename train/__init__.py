"""Training: the loop, the network's step, and the MLflow run."""
