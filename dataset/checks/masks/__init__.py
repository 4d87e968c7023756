"""Checks of mask values: which occur, what they mean, and whether masks agree with each other and with their images."""
