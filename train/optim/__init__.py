"""Learning-rate schedule and weight averaging."""
