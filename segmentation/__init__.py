"""Networks, losses, metrics, the predictor and the model file."""

import core  # noqa: F401  (configures OpenMP, before torch is imported)
