"""Every setting of the project: one frozen object from the environment and `.env`; command-line options win.

Precedence: command line, then environment, then `.env` beside this file, then the defaults below.
Relative paths in the environment and in `.env` start at the project's directory, so that every script, started
from anywhere, finds the same data, store and runs.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.dotenv_file import load_dotenv, peek_dotenv
from core.files import absolute_paths, writable_cache
from core.i18n import LANGUAGES, language_of_locale, mark, set_language
from core.safety.name_rules import BRANCH, BUCKET, METRIC, MODEL, REPOSITORY, SHA256, SLICES
from core.safety.private_files import keep_private
from core.safety.redaction import add_secrets
from core.safety.urls import credentials, without_credentials
from core.settings import (
    name_origins,
    parse_minimums,
    read_values,
    require_expression,
    require_servers,
    runtime_setting,
    setting,
    table_of,
    types_of,
    validate,
)

ROOT = Path(__file__).resolve().parent
COUNT: dict[str, Any] = {"metavar": "N", "minimum": 0}
POSITIVE: dict[str, Any] = {"metavar": "N", "minimum": 1}
CONFIDENCE: dict[str, Any] = {"option": "--confidence", "metavar": "X", "minimum": 0, "below": 1}
FRACTION: dict[str, Any] = {"metavar": "X", "minimum": 0, "maximum": 1}
SIDES: dict[str, Any] = {"metavar": ("H", "W"), "minimum": 16, "maximum": 8192}  # of an image in pixels
LOSSES = ("ce", "dice", "lovasz", "ce+dice", "ce+lovasz", "focal")
FROM_DATA, UNLIMITED = mark("from the data"), mark("no limit")


@dataclass(frozen=True)
class Settings:
    """Names are those of the environment, in lower case; core/settings.py explains the facts of a setting."""

    # --- data versions ---
    lakefs_endpoint: str | None = runtime_setting(
        None,
        mark("URL of a lakeFS server, such as http://127.0.0.1:8000"),
        unset=mark("an embedded server over LAKEFS_LOCAL_DIR"),
    )
    lakefs_access_key_id: str | None = runtime_setting(None, mark("required with LAKEFS_ENDPOINT"), secret=True)
    lakefs_secret_access_key: str | None = runtime_setting(None, mark("required with LAKEFS_ENDPOINT"), secret=True)
    lakefs_repo: str = runtime_setting(
        "image-segmentation-local-repo", mark("lakeFS repository; created if missing"), **REPOSITORY
    )
    lakefs_branch: str = runtime_setting(
        "main", mark("branch that results are merged into; nothing is staged on it"), **BRANCH
    )
    lakefs_storage_namespace: str | None = runtime_setting(
        None,
        mark("place of a new repository, such as s3://lake"),
        unset=mark("s3://MINIO_BUCKET, or the embedded store"),
    )
    lakefs_local_dir: Path = runtime_setting(Path(".lakefs"), mark("embedded store, and cache of downloads and images"))

    # --- object storage under lakeFS: MinIO or any S3 ---
    minio_endpoint: str | None = runtime_setting(None, mark("URL of an S3 store"), unset=mark("no bucket is created"))
    minio_region: str = runtime_setting("us-east-1", mark("region of the store; signatures contain it"))
    minio_path_style: bool = runtime_setting(True, mark("true: http://host/bucket/key; false: http://bucket.host/key"))
    minio_access_key: str | None = runtime_setting(None, mark("required with MINIO_ENDPOINT"), secret=True)
    minio_secret_key: str | None = runtime_setting(None, mark("required with MINIO_ENDPOINT"), secret=True)
    minio_bucket: str | None = runtime_setting(
        None, mark("bucket of a new repository if LAKEFS_STORAGE_NAMESPACE is unset"), **BUCKET
    )

    # --- experiments and the registry ---
    mlflow_tracking_uri: str | None = runtime_setting(None, mark("URL of MLflow"), unset=mark("SQLite in mlflow.db"))
    mlflow_experiment: str = runtime_setting("Image Segmentation", mark("MLflow experiment"))
    optuna_storage: str | None = runtime_setting(
        None,
        mark("database of --sweep: a URL, or mlflow for that of MLFLOW_TRACKING_URI"),
        unset=mark("SQLite in models/sweeps.db"),
    )
    registered_model: str = runtime_setting("image-segmentation", mark("name of the registered model"), **MODEL)
    register_metric: str = runtime_setting(
        "best_val_miou",
        mark("metric that decides on registration; higher is better"),
        option="--metric",
        metavar="NAME",
        **METRIC,
    )
    register_threshold: float = runtime_setting(
        0.3, mark("smallest value that is registered; 0 registers every finished run"), option="--threshold", **FRACTION
    )
    register_split: str = runtime_setting(
        "val",
        mark("split that decides between a new model and the champion; test is the fairer if there is one"),
        choices=("val", "test"),
    )
    register_min_gain: float = runtime_setting(
        0.0, mark("smallest gain over the champion"), option="--min-gain", **FRACTION
    )
    register_confidence: float = runtime_setting(
        0.95, mark("confidence of the gain's interval, which must lie above 0; 0: not required"), **CONFIDENCE
    )
    register_accept_warnings: bool = runtime_setting(
        False, mark("promote even if val is small or lacks classes"), option="--accept-warnings"
    )
    register_min_class_iou: str | None = runtime_setting(
        None,
        mark("minimum IoU of the classes: 0.2, road=0.5 car=0.3, or both; an absent class fails unless it has =0"),
        unset=mark("no minimum"),
    )
    register_slices: str | None = runtime_setting(
        None,
        mark("parts of the images that a new model must not degrade: object-size, brightness, directory, FILE.csv"),
        unset=mark("only all images together"),
        **SLICES,
    )
    register_max_mb: float | None = runtime_setting(
        None, mark("largest model in 10^6 bytes; of an ensemble, the sum of its members"), unset=UNLIMITED, above=0
    )
    register_max_ms: float | None = runtime_setting(
        None, mark("longest prediction time of an image in ms, on the machine that registers"), unset=UNLIMITED, above=0
    )
    signing_key: Path | None = runtime_setting(
        None,
        mark("private key that signs promoted models"),
        unset=mark("not signed"),
        option="--signing-key",
        metavar="FILE",
    )
    signing_key_password: str | None = runtime_setting(None, mark("if SIGNING_KEY is encrypted"), secret=True)

    # --- infer.py --serve ---
    serve_max_mb: float = runtime_setting(20.0, mark("largest image file of --serve in 10^6 bytes"), above=0)
    serve_max_megapixels: float = runtime_setting(
        25.0, mark("largest image of --serve in 10^6 pixels; each takes 4 bytes of memory per class"), above=0
    )
    serve_timeout_s: float = runtime_setting(
        30.0, mark("time limit of --serve for an upload, and for a prediction, in seconds"), above=0
    )

    # --- files ---
    data_dir: Path = runtime_setting(
        Path("data"),
        mark("directory with images/ and masks/, or {train,val[,test]}/{images,masks}"),
        option="--data-dir",
        metavar="DIR",
    )
    model_path: Path = runtime_setting(Path("models/model.pth"), mark("where the model of the best epoch is saved"))

    # --- training ---
    epochs: int | None = setting(
        None, mark("number of epochs"), unset=mark("10, at least 250 steps"), option="--epochs", metavar="N", minimum=1
    )
    max_seconds: float | None = setting(
        None,
        mark("train for this many seconds instead, validation excluded"),
        unset=mark("EPOCHS"),
        option="--max-seconds",
        metavar="S",
        above=0,
    )
    batch_size: int | None = setting(None, mark("batch size"), unset=FROM_DATA, option="--batch-size", **POSITIVE)
    learning_rate: float | None = setting(
        None, mark("peak learning rate"), unset=mark("by network"), option="--lr", metavar="X", above=0
    )
    image_size: tuple[int, int] | None = setting(
        None, mark("input size: height and width in pixels"), unset=FROM_DATA, option="--image-size", **SIDES
    )
    crop_size: tuple[int, int] | None = setting(
        None,
        mark("size of the random crop that a training step uses"),
        unset=mark("the whole input"),
        option="--crop-size",
        **SIDES,
    )
    raw_orientation: bool = setting(
        False, mark("read images and masks as stored, without their EXIF orientation"), option="--raw-orientation"
    )
    allow_truncated: bool = setting(
        False, mark("accept JPEG images whose end is missing; the missing part is grey"), option="--allow-truncated"
    )
    model: str = setting("compact_fpn", mark("network; see segmentation/networks"), option="--model", metavar="NAME")
    pretrained: bool = setting(
        False,
        mark("start from published weights: of a package, WEIGHTS_DIR, torch's cache or the internet, or of this file"),
        option="--pretrained",
        metavar="FILE",
        optional_value="weights",
    )
    weights: str | None = setting(None, mark("file, or path in lakeFS, of the weights for --pretrained"))
    weights_dir: Path | None = runtime_setting(None, mark("directory where --pretrained looks for weights"))
    pretrained_sha256: str | None = setting(None, mark("SHA-256 that published weights must have"), **SHA256)
    init: str | None = setting(
        None,
        mark("start from the weights of this model: champion, a run, version, tag, file or package"),
        option="--init",
        metavar="MODEL",
    )
    init_sha256: str | None = setting(None, mark("SHA-256 that the file of INIT must have"), **SHA256)
    loss: str = setting("ce+lovasz", mark("loss function"), option="--loss", choices=LOSSES)
    class_weights: str = setting(
        "auto",
        mark("class weights: auto, none, or one number per class"),
        option="--class-weights",
        metavar="auto|none|'1 2.5 …'",
    )
    augmentation: str = setting(
        "auto",
        mark("strength of the augmentation; auto: by the number of epochs"),
        option="--augmentation",
        choices=("auto", "none", "light", "standard", "strong"),
    )
    ema: float = setting(
        0.02, mark("weight averaging over this fraction of the training; 0: off"), option="--ema", **FRACTION
    )
    clip_norm: float = setting(
        5.0, mark("gradient clipping norm; 0: off"), option="--clip-norm", metavar="X", minimum=0
    )
    accumulate: int = setting(
        1, mark("batches per optimizer step (gradient accumulation)"), option="--accumulate", **POSITIVE
    )
    precision: str = setting(
        "auto",
        mark("number format; auto: bfloat16 or float16 on a GPU that supports it, else float32"),
        option="--precision",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    seed: int = setting(
        0, mark("random seed of weights, order, augmentation and a new split"), option="--seed", metavar="N", minimum=0
    )
    split_group: str | None = setting(
        None,
        mark("regular expression whose groups match what images of one split have in common, such as '(patient\\d+)'"),
        unset=mark("from groups.csv, directories and file names"),
        option="--split-group",
        metavar="REGEX",
    )
    device: str = runtime_setting(
        "auto",
        mark("device; auto: CUDA, else Apple's MPS, else the CPU"),
        option="--device",
        choices=("auto", "cpu", "cuda", "mps"),
    )
    num_workers: int = runtime_setting(
        0,
        mark("processes that read images which the cache has no room for; 0: the training process reads"),
        option="--workers",
        **COUNT,
    )
    picture_cache_gb: float = runtime_setting(
        20.0,
        mark("at most so many 10^9 bytes of decoded and streamed images under LAKEFS_LOCAL_DIR; 0: none are kept"),
        minimum=0,
    )
    stream: str = runtime_setting(
        "auto",
        mark("read the images of a commit from lakeFS while training; auto: if they exceed PICTURE_CACHE_GB"),
        option="--stream",
        choices=("auto", "always", "never"),
    )
    sync_batchnorm: bool = setting(False, mark("synchronize batch normalization between the GPUs of torchrun"))
    folds: int | None = setting(
        None,
        mark("train this many models that each hold out a part of train and val, and use their mean"),
        unset=mark("one model, judged on val"),
        option="--folds",
        metavar="N",
        minimum=2,
        maximum=100,
    )
    validate_every: int | None = setting(
        None, mark("validate every N epochs"), unset=mark("by its cost"), option="--validate-every", **POSITIVE
    )
    patience: int = setting(
        0, mark("stop after N epochs without a better validation mIoU; 0: never"), option="--patience", **COUNT
    )
    checkpoint_minutes: float = runtime_setting(
        10.0, mark("minutes between checkpoints within an epoch; 0: only after each epoch"), minimum=0
    )
    app_lang: str | None = runtime_setting(
        None, mark("language of the console"), unset=mark("from the locale"), choices=LANGUAGES
    )
    explicit: frozenset[str] = dataclasses.field(default=frozenset(), repr=False, compare=False)  # names that were set

    def __post_init__(self) -> None:
        """Refuse values that parse but make no sense, naming key, value and rule."""
        validate(self)
        require_expression("SPLIT_GROUP", self.split_group)
        parse_minimums("REGISTER_MIN_CLASS_IOU", self.register_min_class_iou)
        require_servers(self)

    @property
    def cache_dir(self) -> Path:
        """Verified downloads, by content; a temporary directory if LAKEFS_LOCAL_DIR cannot be written."""
        return writable_cache(self.lakefs_local_dir / "cache")

    @property
    def decoded_dir(self) -> Path:
        """Decoded images for training."""
        return self.cache_dir / "pictures"

    def reproducible_settings(self) -> dict[str, Any]:
        """Return the settings that decide what is learned."""
        return {k: getattr(self, k) for k, info in SETTINGS.items() if not info.runtime_only}

    def public(self) -> dict[str, str]:
        """Return all settings except secrets as text, for the record of a run."""
        return {k: without_credentials(str(getattr(self, k))) for k, info in SETTINGS.items() if not info.secret}

    def secrets(self) -> list[str]:
        """Return the values of all keys that are set, and the credentials in URLs."""
        values = {k: str(getattr(self, k)) for k in SETTINGS if getattr(self, k)}
        in_urls = [found for value in values.values() for found in credentials(value)]
        return [value for k, value in values.items() if SETTINGS[k].secret] + in_urls


SETTINGS = table_of(Settings)
FIELDS = types_of(Settings)
TRAINING_LENGTH = ("epochs", "max_seconds")  # settings that exclude each other
TRAINING_OPTIONS = [name for name in list(SETTINGS)[list(SETTINGS).index("epochs") :] if SETTINGS[name].option]
OWN_PREFIXES = ("LAKEFS_", "MINIO_", "REGISTER", "SERVE_")


def load_settings(**overrides: Any) -> Settings:
    """Load the settings from the environment and `.env`; `overrides` that are not None win.

    Variables of libraries in `.env` are set for this process (`load_dotenv`). Raises UsageError that names the key, the
    value, and the rule or the nearest known key.
    """
    dotenv = load_dotenv(ROOT / ".env", FIELDS, OWN_PREFIXES)
    with name_origins(SETTINGS, overrides, ROOT / ".env"):
        values = _without_replaced(read_values(FIELDS, overrides, dotenv), overrides)
        settings = Settings(**values, explicit=frozenset(values))
    add_secrets(settings.secrets())
    set_language(settings.app_lang or language_of_locale())
    paths = {name: getattr(settings, name) for name, hint in FIELDS.items() if hint is Path}
    absolute = absolute_paths({name: path for name, path in paths.items() if path is not None}, overrides, ROOT)
    keep_private(absolute["lakefs_local_dir"])
    return dataclasses.replace(settings, **absolute)  # type: ignore[arg-type]  # each is a field of type Path


def _without_replaced(values: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return values without the length of a training that an option replaces: --epochs that of MAX_SECONDS, or the reverse."""
    given = [name for name in TRAINING_LENGTH if overrides.get(name) is not None]
    return {k: v for k, v in values.items() if len(given) != 1 or k in given or k not in TRAINING_LENGTH}


# Before any text is shown, that of --help included; load_settings reports an invalid value.
set_language(os.environ.get("APP_LANG", peek_dotenv(ROOT / ".env", "APP_LANG")) or language_of_locale())
