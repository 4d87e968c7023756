"""The evaluation gate and the promotion of registered models."""
