"""Trainings that start from a model."""
