"""Segmentation training. Without this file `import train` would find train.py instead of this package."""
