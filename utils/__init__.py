"""Clients of lakeFS, S3 and MLflow, and the embedded lakeFS server."""
