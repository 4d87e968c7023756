"""Every setting of the project: one frozen object from the environment and `.env`; command-line options win.

Precedence: command line, then environment, then `.env` beside this file, then the defaults below.
Relative paths in the environment and in `.env` start at the project's folder, so that every script, started
from anywhere, finds the same data, store and runs.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.console import LANGUAGES, UsageError, set_language, t
from utils.git_utils import without_credentials

ROOT = Path(__file__).resolve().parent
DEVICES = ("auto", "cpu", "cuda", "mps")


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

    # Files
    data_dir: Path = Path("data")  # images/ + masks/, or {train,val[,test]}/{images,masks}
    model_path: Path = Path("models/model.pth")

    # Training
    epochs: int = 10  # passes over the training split, at least 1
    batch_size: int = 16  # pictures a step, at least 1
    learning_rate: float = 0.001  # peak of the schedule, greater than 0
    image_size: tuple[int, int] | None = None  # height and width in pixels, "180 240"; unset: from the data
    model: str = "compact_unet"  # a name of train/networks.py
    seed: int = 0  # initial weights, order, augmentation and a new split; 0 or more
    device: str = "auto"  # auto: CUDA, else Apple's MPS, else the CPU
    num_workers: int = 0  # processes that read pictures; 0: read in this one
    app_lang: str = "ko"  # ko or en

    def __post_init__(self) -> None:
        """Refuse values that parse but make no sense, naming key, value and rule."""
        for name, minimum in (("epochs", 1), ("batch_size", 1), ("num_workers", 0), ("seed", 0)):
            if getattr(self, name) < minimum:
                raise _bad(name.upper(), getattr(self, name), t(f"{minimum} 이상", f"at least {minimum}"))
        if not 0 < self.learning_rate < float("inf"):
            raise _bad("LEARNING_RATE", self.learning_rate, t("0보다 큰 수", "a number greater than 0"))
        if self.image_size is not None and not all(16 <= side <= 8192 for side in self.image_size):
            raise _bad("IMAGE_SIZE", self.image_size, t("각 변 16~8192 픽셀", "sides of 16 to 8192 pixels"))
        for name, choices in (("device", DEVICES), ("app_lang", LANGUAGES)):
            if getattr(self, name) not in choices:
                raise _bad(name.upper(), getattr(self, name), ", ".join(choices))
        self._need("lakefs_endpoint", "lakefs_access_key_id", "lakefs_secret_access_key")
        self._need("minio_endpoint", "minio_access_key", "minio_secret_key")

    def _need(self, endpoint: str, *keys: str) -> None:
        """An endpoint without its keys is a mistake, not a reason to fall back."""
        url = getattr(self, endpoint)
        if url is None:
            return
        if not url.startswith(("http://", "https://")):
            raise _bad(endpoint.upper(), url, "http://… / https://…")
        missing = [key.upper() for key in keys if not getattr(self, key)]
        if missing:
            names = ", ".join(missing)
            raise UsageError(
                t(
                    f"{endpoint.upper()}={url} 이(가) 설정되었지만 {names} 이(가) 없습니다: 환경 변수나 .env 에 넣으세요",
                    f"{endpoint.upper()}={url} is set but {names} is not: put it into the environment or .env",
                )
            )

    def public(self) -> dict[str, str]:
        """All settings but the secrets, as text, for the record of a run."""
        secret = {"lakefs_access_key_id", "lakefs_secret_access_key", "minio_access_key", "minio_secret_key"}
        return {k: without_credentials(str(v)) for k, v in dataclasses.asdict(self).items() if k not in secret}


FIELDS: dict[str, Any] = typing.get_type_hints(Settings)
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
_TRUTH = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
OWN_PREFIXES = ("LAKEFS_", "MINIO_", "REGISTER")


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
    set_language(settings.app_lang)
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
            t(
                f"{ROOT / '.env'}: 모르는 키 '{key}', 가장 가까운 키는 '{near[0]}' 입니다",
                f"{ROOT / '.env'}: unknown key '{key}', the nearest known one is '{near[0]}'",
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
            bool: t("true 또는 false", "true or false"),
            int: t("정수", "a whole number"),
            float: t("숫자", "a number"),
        }
        raise _bad(
            key, text, names.get(hint, t("높이와 너비 (예: 180 240)", "height and width, such as 180 240"))
        ) from None
    return text


def _bad(key: str, value: object, expected: str) -> UsageError:
    return UsageError(t(f"{key}={value!r}: 기대한 값은 {expected} 입니다", f"{key}={value!r}: expected {expected}"))


# Before any text is shown, --help too; a wrong value is said by load_settings.
set_language(os.environ.get("APP_LANG", read_dotenv().get("APP_LANG", "ko")))
