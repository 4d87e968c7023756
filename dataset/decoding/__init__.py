"""Decode image and mask files of any bit depth, palette, transparency and orientation."""
