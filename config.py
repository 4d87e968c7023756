"""Every setting of the project: one frozen object from the environment and `.env`; command-line options win.

Precedence: command line, then environment, then `.env` beside this file, then the defaults below.
Relative paths in the environment and in `.env` start at the project's folder, so that every script, started
from anywhere, finds the same data, store and runs.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core.errors import UsageError
from core.git import without_credentials
from core.i18n import LANGUAGES, language_of_locale, mark, set_language, tr

pass

ROOT = Path(__file__).resolve().parent
CHOICES = {
    "device": ("auto", "cpu", "cuda", "mps"),
    "loss": ("ce", "dice", "ce+dice", "focal"),
    "augmentation": ("auto", "none", "light", "standard", "strong"),
    "precision": ("auto", "float32", "bfloat16", "float16"),
    "register_split": ("val", "test"),
    "app_lang": LANGUAGES,
}


@dataclass(frozen=True)
class Settings:
    """Names are those of the environment, in lower case."""

    # Data versions. Unset endpoint: an embedded server over `lakefs_local_dir` starts inside the process.
    lakefs_endpoint: str | None = None  # URL of a lakeFS server, such as http://127.0.0.1:8000
    lakefs_access_key_id: str | None = None  # needed with an endpoint
    lakefs_secret_access_key: str | None = dataclasses.field(default=None, repr=False)  # needed with an endpoint
    lakefs_repo: str = "image-segmentation-local-repo"  # lower-case letters, digits and '-', 3 to 63 characters
    lakefs_branch: str = "main"  # results are merged into this branch; nothing is ever staged on it
    lakefs_storage_namespace: str | None = None  # prefix such as s3://lake; unset: s3://MINIO_BUCKET, or local://
    lakefs_local_dir: Path = Path(".lakefs")  # the embedded store and the download cache

    # Object storage under lakeFS: MinIO, RustFS, SeaweedFS, AWS; makes the bucket that a new lakeFS repository needs
    minio_endpoint: str | None = None  # URL of MinIO or any S3; unset: no bucket is made
    minio_region: str = "us-east-1"  # what the server is set to; signatures carry it
    minio_path_style: bool = True  # http://host/bucket/key; false: http://bucket.host/key, as AWS wants it
    minio_access_key: str | None = None  # needed with an endpoint
    minio_secret_key: str | None = dataclasses.field(default=None, repr=False)  # needed with an endpoint
    minio_bucket: str | None = None  # bucket of a new repository when LAKEFS_STORAGE_NAMESPACE is unset

    # Experiments and the registry. Unset URI: SQLite in the project's folder.
    mlflow_tracking_uri: str | None = None
    mlflow_experiment: str = "Image Segmentation"
    registered_model: str = "image-segmentation"
    register_metric: str = "best_val_miou"  # metric of a run that decides; higher is better
    register_threshold: float = 0.3  # smallest value that is registered; 0 registers every finished run

    # What a version needs to become champion, measured again at registration; else it becomes challenger
    register_split: str = "val"  # split of the new model's data that decides; test, where you have one, is the fairer
    register_min_gain: float = 0.0  # smallest gain over the champion, in the metric's unit
    register_confidence: float = 0.95  # of the gain's bootstrap interval, which must lie above 0; 0: not asked for
    register_min_class_iou: str | None = None  # "0.2", "road=0.5 car=0.3" or both; unset: no class has a minimum
    register_max_mb: float | None = None  # largest model file, in 10^6 bytes; unset: any
    register_max_ms: float | None = None  # longest time a picture, in milliseconds on the machine that registers

    # What `infer.py --serve` takes
    serve_max_mb: float = 20.0  # largest file of a picture, in 10^6 bytes
    serve_max_megapixels: float = 25.0  # most pixels of a picture, in 10^6; each takes 4 bytes a class of memory
    serve_timeout_s: float = 30.0  # longest time to send a picture, and to predict it, in seconds

    # Files
    data_dir: Path = Path("data")  # images/ + masks/, or {train,val[,test]}/{images,masks}
    model_path: Path = Path("models/model.pth")

    # Training
    epochs: int = 10  # passes over the training split, at least 1
    max_seconds: float | None = None  # train for so long instead, validation left out; unset: EPOCHS
    batch_size: int | None = None  # pictures a step, at least 1; unset: from the data and the memory
    learning_rate: float | None = None  # peak of the schedule, greater than 0; unset: by the kind of network
    image_size: tuple[int, int] | None = None  # height and width in pixels, "180 240"; unset: from the data
    crop_size: tuple[int, int] | None = None  # part of that which a training step sees; unset: all of it
    model: str = "compact_fpn"  # a name of segmentation/networks.py
    pretrained: bool = False  # start from published weights, where the network has some
    loss: str = "ce"  # ce, dice, ce+dice or focal
    class_weights: str = "auto"  # auto, none, or a number for each class, "1 2.5 4"
    augmentation: str = "auto"  # none, light, standard or strong; auto: by how often each picture is seen
    ema: float = 0.02  # the saved weights are an average over about this share of the training; 0: the last ones
    clip_norm: float = 5.0  # longest gradient of a step; 0: no limit
    accumulate: int = 1  # batches whose gradients make one step of the optimiser, at least 1
    precision: str = "auto"  # auto: bfloat16 or float16 on a GPU that gains from it, else float32
    seed: int = 0  # initial weights, order, augmentation and a new split; 0 or more
    device: str = "auto"  # auto: CUDA, else Apple's MPS, else the CPU
    num_workers: int = 0  # processes that read pictures which the cache has no room for; 0: read in this one
    picture_cache_gb: float = 20.0  # 10^9 bytes of decoded pictures on disk, the oldest go first; 0: none are kept
    sync_batchnorm: bool = False  # under torchrun on GPUs: batch normalisation over the pictures of all processes
    patience: int = 0  # epochs in a row without a better validation mIoU that end the training; 0: all epochs
    checkpoint_minutes: float = 10.0  # a checkpoint so often within an epoch, and after each; 0: only after each
    app_lang: str | None = None  # ko or en; unset: the locale (LC_ALL, LC_MESSAGES, LANG)

    def __post_init__(self) -> None:
        """Refuse values that parse but make no sense, naming key, value and rule."""
        at_least = {"epochs": 1, "batch_size": 1, "accumulate": 1, "num_workers": 0, "seed": 0, "patience": 0}
        for name, minimum in at_least.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise _bad(name.upper(), value, tr("at least {minimum}", minimum=minimum))
        above_0 = ("learning_rate", "max_seconds", "serve_max_mb", "serve_max_megapixels", "serve_timeout_s")
        for name in (*above_0, "register_max_mb", "register_max_ms"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise _bad(name.upper(), value, tr("a number greater than 0"))
        if not 0 <= self.clip_norm < float("inf"):
            raise _bad("CLIP_NORM", self.clip_norm, tr("a number of 0 or more"))
        if not 0 <= self.checkpoint_minutes < float("inf"):
            raise _bad("CHECKPOINT_MINUTES", self.checkpoint_minutes, tr("a number of 0 or more"))
        if not 0 <= self.picture_cache_gb < float("inf"):
            raise _bad("PICTURE_CACHE_GB", self.picture_cache_gb, tr("a number of 0 or more"))
        if not 0 <= self.ema <= 1:
            raise _bad("EMA", self.ema, tr("a number from 0 to 1"))
        for name in ("image_size", "crop_size"):
            size = getattr(self, name)
            if size is not None and not all(16 <= side <= 8192 for side in size):
                raise _bad(name.upper(), size, tr("sides of 16 to 8192 pixels"))
        self._check_registration()
        for name, choices in CHOICES.items():
            if getattr(self, name) not in (*choices, None):
                raise _bad(name.upper(), getattr(self, name), ", ".join(choices))
        for name, (pattern, rule) in NAMES.items():
            value = getattr(self, name)
            if value is not None and not re.fullmatch(pattern, value, re.ASCII):
                raise _bad(name.upper(), value, tr(rule))
        self._need("lakefs_endpoint", "lakefs_access_key_id", "lakefs_secret_access_key")
        self._need("minio_endpoint", "minio_access_key", "minio_secret_key")

    def _check_registration(self) -> None:
        """Figures are shares of 1, and more of the metric is better."""
        if not 0 <= self.register_confidence < 1:
            raise _bad("REGISTER_CONFIDENCE", self.register_confidence, tr("at least 0, below 1"))
        for name in ("register_threshold", "register_min_gain"):
            if not 0 <= getattr(self, name) <= 1:
                raise _bad(name.upper(), getattr(self, name), tr("a number from 0 to 1"))
        if not self.register_metric.endswith(("miou", "accuracy")):  # the two that the gate measures again
            rule = tr("…miou or …accuracy, of which more is better")
            raise _bad("REGISTER_METRIC", self.register_metric, rule)
        parse_class_minimum(self.register_min_class_iou)

    def _need(self, endpoint: str, *keys: str) -> None:
        """An endpoint without its keys is a mistake, not a reason to fall back."""
        url = getattr(self, endpoint)
        if url is None:
            return
        names = tr(" and ").join(key.upper() for key in keys)
        if "@" in url:  # not shown: what stands before it is a password
            raise UsageError(
                tr(
                    "{endpoint}: no user and password in the address: they belong into {names}",
                    endpoint=endpoint.upper(),
                    names=names,
                )
            )
        if not _is_address(url):
            raise _bad(endpoint.upper(), url, "http(s)://HOST[:PORT]")
        missing = [key.upper() for key in keys if not getattr(self, key)]
        if missing:
            names = ", ".join(missing)
            raise UsageError(
                tr(
                    "{endpoint}={url} is set but {names} is not: put it into the environment or .env",
                    endpoint=endpoint.upper(),
                    url=url,
                    names=names,
                )
            )

    def of_the_result(self) -> dict[str, Any]:
        """The settings that decide what is learnt."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in NOT_OF_THE_RESULT}

    def public(self) -> dict[str, str]:
        """All settings but the secrets, as text, for the record of a run."""
        secret = {"lakefs_access_key_id", "lakefs_secret_access_key", "minio_access_key", "minio_secret_key"}
        return {k: without_credentials(str(v)) for k, v in dataclasses.asdict(self).items() if k not in secret}


FIELDS: dict[str, Any] = typing.get_type_hints(Settings)
# What two trainings of one result may differ in: where things are, and how they are done and shown.
NOT_OF_THE_RESULT = frozenset(
    name
    for name in FIELDS
    if name.startswith(("lakefs_", "minio_", "mlflow_", "register", "serve_"))
    or name in ("data_dir", "model_path", "device", "num_workers", "picture_cache_gb", "checkpoint_minutes", "app_lang")
)
# Other programs' names in a shared .env (docker-compose.yml reads the same file) are not ours to judge.
FOREIGN_PREFIXES = (
    *("LAKEFS_INSTALLATION_", "LAKEFS_DATABASE_", "LAKEFS_BLOCKSTORE_", "LAKEFS_AUTH_", "LAKEFS_LOGGING_"),
    *(
        "LAKEFS_STATS_",
        "LAKEFS_LISTEN_",
        "LAKEFS_IMAGE",
        "MINIO_ROOT_",
        "MINIO_IMAGE",
        "MINIO_BROWSER",
        "MINIO_SERVER_",
    ),
)
# What is called so by others: lakeFS's repositories and branches, S3's buckets, MLflow's registered models.
BUCKET = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
BUCKET_RULE = mark("3 to 63 lower-case letters, digits, '-' and '.'")
NAMES = {
    "lakefs_repo": (
        r"[a-z0-9][a-z0-9-]{2,62}",
        mark("3 to 63 lower-case letters, digits and '-', the first no '-'"),
    ),
    "lakefs_branch": (
        r"\w[-\w]*",
        mark("letters, digits, '_' and '-', the first no '-'"),
    ),
    "minio_bucket": (BUCKET, BUCKET_RULE),
    # NAME/VERSION and NAME@ALIAS name a version of it
    "registered_model": (
        r"(?!\.+$)[^\s/@:]([^/@:]*[^\s/@:])?",
        mark("a name without '/', '@', ':'"),
    ),
}
_TRUTH = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
OWN_PREFIXES = ("LAKEFS_", "MINIO_", "REGISTER", "SERVE_")


def parse_class_minimum(text: str | None) -> tuple[float | None, dict[str, float]]:
    """ "0.2", "road=0.5 car=0.3" or both -> the least IoU of every class, and those of single ones. Raises UsageError."""
    everywhere: float | None = None
    single: dict[str, float] = {}
    for part in (text or "").replace(",", " ").split():
        name, equals, number = part.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if not 0 <= value <= 1 or bool(name) != bool(equals):
            rule = tr("a number from 0 to 1, or CLASS=NUMBER")
            raise _bad("REGISTER_MIN_CLASS_IOU", part, rule)
        if name:
            single[name] = value
        else:
            everywhere = value
    return everywhere, single


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment and `.env`; `overrides` that are not None win (they are of the field's type).

    Raises UsageError that names the key, the value, and the rule or the nearest known key.
    """
    dotenv = read_dotenv()
    for key in dotenv:
        _check_known(key)
    values: dict[str, Any] = {}
    for name, hint in FIELDS.items():
        text = os.environ.get(name.upper(), dotenv.get(name.upper()))  # an empty one takes back what .env says
        if overrides.get(name) is not None:
            values[name] = overrides[name]
        elif text:
            values[name] = _parse(name.upper(), text.strip(), hint)
    settings = Settings(**values)
    set_language(settings.app_lang or language_of_locale())
    anchored: dict[str, Any] = {
        name: (ROOT / getattr(settings, name)).resolve()
        if overrides.get(name) is None
        else Path(overrides[name]).resolve()
        for name, hint in FIELDS.items()
        if hint is Path
    }
    return dataclasses.replace(settings, **anchored)


def read_dotenv() -> dict[str, str]:
    """The keys and values of `.env`; none where there is no such file."""
    from dotenv import dotenv_values

    return {key: value for key, value in dotenv_values(ROOT / ".env").items() if value is not None}


def _check_known(key: str) -> None:
    """An unknown key of .env that looks like one of ours is a typing mistake."""
    known = [name.upper() for name in FIELDS]
    if key in known or key.startswith(FOREIGN_PREFIXES):
        return
    near = difflib.get_close_matches(key.upper(), known, n=1, cutoff=0.85)
    # MLflow reads many names of its own: only what is all but one of ours is taken for a mistake.
    alike = bool(near) and (not key.startswith("MLFLOW_") or difflib.SequenceMatcher(None, key, near[0]).ratio() > 0.9)
    if alike or key.startswith(OWN_PREFIXES):
        near = near or difflib.get_close_matches(key.upper(), known, n=1, cutoff=0)
        raise UsageError(
            tr(
                "{root}: unknown key '{key}', the nearest known one is '{near}'",
                root=ROOT / ".env",
                key=key,
                near=near[0],
            )
        )


def _parse(key: str, text: str, hint: Any) -> Any:
    """The text as the field's type. Raises UsageError with key, value and what was expected."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    try:
        if hint is bool:
            return _TRUTH[text.lower()]
        if hint is int:
            return int(text)
        if hint is float:
            return float(text)
        if hint is Path:
            return Path(text).expanduser()
        if typing.get_origin(hint) is tuple:
            height, width = text.replace(",", " ").replace("x", " ").split()
            return int(height), int(width)
    except (KeyError, ValueError):
        names = {
            bool: tr("true or false"),
            int: tr("a whole number"),
            float: tr("a number"),
        }
        raise _bad(key, text, names.get(hint, tr("height and width, such as 180 240"))) from None
    return text


def _is_address(url: str) -> bool:
    """Whether it is http(s)://HOST, with a port that can be one."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _bad(key: str, value: object, expected: str) -> UsageError:
    return UsageError(tr("{key}={value!r}: expected {expected}", key=key, value=value, expected=expected))


# Before any text is shown, --help too; a wrong value is said by load_settings.
set_language(os.environ.get("APP_LANG", read_dotenv().get("APP_LANG")) or language_of_locale())


def cache_folder(settings: Settings) -> Path:
    """Where downloads are kept, verified and read-only."""
    return settings.lakefs_local_dir / "cache"


def pictures_folder(settings: Settings) -> Path:
    """Where decoded pictures are kept; all of it can be made again."""
    return cache_folder(settings) / "pictures"
