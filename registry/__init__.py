"""The evaluation gate and the promotion of registered models."""

import core  # noqa: F401  (configures OpenMP, before torch is imported)
