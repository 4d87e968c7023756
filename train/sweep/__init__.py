"""A search for the best settings (`--sweep`): many trainings, one study of Optuna, one parent run."""
