"""Images and masks: classes, layouts, splits, reading, validation and sample data."""

import core  # noqa: F401  (configures OpenMP, before torch is imported)
