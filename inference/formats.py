"""Names that inference stores: files of an output directory, keys of records, exports. Does not load torch."""

LISTING = "predictions.json"  # of an output directory
JOURNAL = ".predictions.jsonl"  # of it while a job runs: its settings, then one line for each finished image
VIDEO_RECORD_SUFFIX = "_overlay.json"  # of the record beside the overlay of a video
UNCERTAINTY_SUFFIX = "_uncertainty"  # of the entropy map of an image, before .png or .tif
LABELME_SUFFIX = "_shapes.json"  # of the outlines of an image, in labelme's format
OWN_FILES = (
    "mask",
    "overlay",
    "probabilities",
    "polygons",
    "uncertainty_map",
)  # keys of an image's record that name files

EXPORT_PREFIX = "exports/"  # path in lakeFS and, below models/, locally
EXPORT_FILES = {"onnx": "model.onnx", "torchscript": "model.pt"}  # kind of an export -> its file


def export_path_tag(kind: str) -> str:
    """Return the tag of a run that holds the lakeFS path of its export."""
    return f"lakefs_{kind}_path"


def export_sha256_tag(kind: str) -> str:
    """Return the tag of a run, and metadata key of a commit, that holds the SHA-256 of an export."""
    return f"{kind}_sha256"


ENSEMBLE = "ensemble"  # key of a record: name and SHA-256 of the files whose predictions are averaged
