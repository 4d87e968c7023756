"""How far a prediction can be trusted: calibrated probabilities, uncertainty, and images unlike those of the training."""
