"""train.py --folds: models that each hold out a part of train and val, and predict together."""
