"""Errors, localization, console, files, processes and Git; no knowledge of segmentation or servers."""
