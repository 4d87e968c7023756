"""The published weights that an installed Python package has. Importing this module does not load torch."""

from importlib.util import find_spec

from utils.published_weights import LITE_PACKAGE

LITE_FPN, LITE_ENCODER = "lite_fpn", "tf_efficientnet_lite0"
LITE_FILE = "models/efficientnet-lite0-57934424.pth"  # of LITE_PACKAGE: its tensors are in the order of timm's
LITE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def has_lite_weights() -> bool:
    """Return whether LITE_FPN can start from published weights without the internet: the packages it needs are installed."""
    return all(find_spec(name) is not None for name in ("timm", LITE_PACKAGE.replace("-", "_")))
