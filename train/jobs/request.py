"""Settings that exclude each other, or have no effect: refused before any work."""

from __future__ import annotations

from collections.abc import Collection

from config import Settings
from core.i18n import tr
from core.settings import InvalidSetting
from segmentation.losses import parse_class_weights
from segmentation.networks.trial import check_new_network
from train.parallel import distributed
from train.setup import check_device
from train.warm_start.network import check_start

# Settings that do nothing without one of these. Each is unset by default, so that a value means that somebody set it.
PARTNERS = {"weights": ("pretrained",), "pretrained_sha256": ("pretrained", "init"), "init_sha256": ("init",)}
UNWEIGHTED = ("dice", "lovasz")  # losses that weigh no pixel: they are means over the classes


def check_request(settings: Settings) -> None:
    """Raise UsageError for settings that no data can be trained with on this machine: before any work."""
    check_start(settings)
    check_new_network(settings.model, settings.pretrained)
    if settings.epochs is not None and settings.max_seconds is not None:
        problem = tr("EPOCHS={epochs} says how long to train, too: leave one of them out", epochs=settings.epochs)
        raise InvalidSetting("MAX_SECONDS", settings.max_seconds, problem=problem)
    if settings.model_path.is_dir():
        problem = tr("a directory: name a file, such as models/model.pth")
        raise InvalidSetting("MODEL_PATH", settings.model_path, problem=problem)
    check_device(settings)
    if settings.folds and settings.patience:
        problem = tr("with FOLDS, nothing may be chosen on the images that a fold holds out: set PATIENCE=0")
        raise InvalidSetting("PATIENCE", settings.patience, problem=problem)
    if settings.class_weights not in ("auto", "none"):
        parse_class_weights(settings.class_weights)
    if settings.crop_size and settings.image_size and any(map(int.__gt__, settings.crop_size, settings.image_size)):
        height, width = settings.image_size
        problem = tr("larger than the input size {height} {width}", height=height, width=width)
        raise InvalidSetting("CROP_SIZE", settings.crop_size, problem=problem)


def check_partners(settings: Settings, varied: Collection[str] = ()) -> None:
    """Raise UsageError for a setting that has no effect on the training, as it needs another one: it would be recorded.

    `varied` are settings whose values are not known yet: those of the space of a sweep.
    """
    for name, partners in PARTNERS.items():
        value = getattr(settings, name)
        if value is not None and not any(getattr(settings, partner) or partner in varied for partner in partners):
            needed = tr(" or ").join(partner.upper() for partner in partners)
            raise InvalidSetting(
                name.upper(),
                value,
                problem=tr("has no effect without {needed}: leave it out, or set {needed}", needed=needed),
            )
    weights = settings.class_weights
    if weights not in ("auto", "none") and settings.loss in UNWEIGHTED and not {"loss", "class_weights"} & {*varied}:
        problem = tr("have no effect with LOSS={loss}: leave them out, or add ce to the loss", loss=settings.loss)
        raise InvalidSetting("CLASS_WEIGHTS", weights, problem=problem)
    if settings.sync_batchnorm and distributed.world_size() == 1:
        problem = tr("has no effect on one process: start train.py with torchrun, or leave it out")
        raise InvalidSetting("SYNC_BATCHNORM", True, problem=problem)
