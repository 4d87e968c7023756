"""What a training run records: the MLflow run, the lakeFS commits, the code and the result."""
