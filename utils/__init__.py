"""Versions of code, data and experiments: Git, lakeFS, object storage, MLflow, and the console."""
