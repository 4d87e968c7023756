"""Batches for training: decoded cache, augmentation and loading."""
