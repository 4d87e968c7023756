"""Loader module named by MLmodel files that earlier versions committed; the code is in segmentation/pyfunc.py."""

from segmentation.pyfunc import _load_pyfunc

__all__ = ["_load_pyfunc"]
