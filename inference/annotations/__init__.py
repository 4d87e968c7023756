"""Predictions in the formats of annotation tools."""
