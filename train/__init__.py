"""Training: the loop, the network's step, and the MLflow run."""

import core  # noqa: F401  (configures OpenMP, before torch is imported)
