"""Provenance of a promoted model: what made it, as files beside it that other programs read and verify."""
