"""Audit of labels: rank the masks that a model, which was trained without them, contradicts."""
