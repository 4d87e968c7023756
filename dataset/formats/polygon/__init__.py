"""Formats whose annotations are polygons, run lengths or brush strokes, drawn into masks."""
