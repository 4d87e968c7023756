"""Shapes of annotation formats as pixels, and pixels as shapes: polygons, run lengths, contours."""
