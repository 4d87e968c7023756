"""Names of the files of a model in `models/`, locally and in lakeFS. Importing this module does not load torch."""

MODEL_FILE = "model.pth"  # of one network; several are named by ENSEMBLE_FILE of utils/ensemble_file.py
METRICS_FILE = "metrics.json"
MLMODEL = "MLmodel"  # MLflow's description of the model; names the module that loads it
