"""Choose a model by name, by file, from tables, or the one that is in use."""
