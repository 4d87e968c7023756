"""Prediction of images, folders and video; serving and export."""

import core  # noqa: F401  (configures OpenMP, before torch is imported)
