"""The promotion gate: which images decide, how both models are measured on them, and the reasons against a promotion."""
