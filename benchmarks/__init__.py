"""Measurements of the project beside its alternatives; each module is a script."""
