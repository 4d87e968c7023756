"""Names by which people choose a model or a run."""
