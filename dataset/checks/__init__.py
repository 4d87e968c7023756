"""Checks of a data directory, one module per subject; a check returns findings and changes nothing."""
