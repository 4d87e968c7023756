"""Data and model versions: push, pull, status, lock file, checkout and migration."""
