"""Command lines: one parser for all scripts, the table of actions and their options, errors of one line."""
