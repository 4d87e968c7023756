"""Annotation formats of other tools, read and written into the layout of this project."""
