"""Assign pairs to training, validation and test."""
