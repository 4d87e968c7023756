"""Networks, losses, metrics, the predictor and the model file."""
