"""Prediction in tiles: of which size, equal to one pass over the full image, and within the memory."""
