"""Trace any artifact to everything it was made from."""
