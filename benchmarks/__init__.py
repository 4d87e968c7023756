"""Measurements of the project beside its alternatives; each module is a script."""

import core  # noqa: F401  (configures OpenMP, before torch is imported)
