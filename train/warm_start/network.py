"""Build the network that a training starts with, and say where its weights are from."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from config import Settings
from core.errors import AppError, UsageError
from core.i18n import tr, trn
from core.reporting import notify, warn
from core.safety.terminal import escape_line
from dataset.classes import abbreviate
from dataset.decoding.options import ReadOptions
from segmentation.networks.encoder_fpn import encoder_of
from segmentation.networks.packages import LITE_ENCODER, LITE_FPN
from segmentation.networks.registry import build_network, build_pretrained
from segmentation.networks.search import Places, require_weights_dir
from segmentation.preprocess import Normalisation
from train.warm_start.initial import Initial, InitialModel, InitialPackage, InitialWeights, require_single
from train.warm_start.packages import PREFIX
from train.warm_start.transfer import compare_classes, transfer
from train.warm_start.units import convert_units

SHOWN = 8  # classes in a line


@dataclass(frozen=True)
class Start:
    """The network before the first step; `facts` are parameters of the run.

    `normalisation` belongs to its weights: None if the data decides it, of fewer channels than the network has if the
    data decides the others.
    """

    network: nn.Module
    normalisation: Normalisation | None = None
    facts: dict[str, str] = field(default_factory=dict)
    published: bool = False  # whether its encoder has published weights


def check_start(settings: Settings) -> None:
    """Raise UsageError for weights that are to come from two places, or from a directory that does not exist."""
    if settings.init is not None and settings.pretrained:
        raise UsageError(tr("--init and --pretrained: both say where the weights are from: leave one out"))
    if settings.pretrained:
        require_weights_dir(settings.weights_dir)


def build_start(
    settings: Settings, classes: tuple[str, ...], reading: ReadOptions, initial: Initial | None = None
) -> Start:
    """Return the network for these classes and the channels of `reading`, from the weights that the settings ask for, and report them.

    Raises UsageError if the weights do not fit, AppError if published ones cannot be read.
    """
    require_single(initial)
    if isinstance(initial, InitialModel):
        return _start_from_model(settings, classes, reading, initial)
    if isinstance(initial, InitialPackage):
        require_encoder(initial.reference, settings.model)
    if settings.pretrained or initial is not None:
        return _start_from_published(settings, len(classes), reading.channels, initial)
    return Start(build_network(settings.model, len(classes), reading.channels))


def require_encoder(reference: str, model: str) -> None:
    """Raise UsageError unless the network has the encoder of the package's published weights."""
    encoder = encoder_of(model)
    if encoder is None or encoder.partition(".")[0] != LITE_ENCODER:
        raise UsageError(
            tr(
                "--init {package}: has weights of the encoder {encoder}, not of {model}: leave out --model, or choose {fitting}",
                package=reference.removeprefix(PREFIX),
                encoder=LITE_ENCODER,
                model=model,
                fitting=LITE_FPN,
            )
        )


def _start_from_published(settings: Settings, classes: int, channels: int, initial: Initial | None) -> Start:
    require_weights_dir(settings.weights_dir)
    places = Places(initial.file if isinstance(initial, InitialWeights) else None, settings.weights_dir)
    network, published = build_pretrained(settings.model, classes, channels, places)
    if settings.pretrained_sha256 not in (None, published.sha256):
        raise AppError(
            tr(
                "published weights of {name}: {source} has other weights than the run was started with (SHA-256 expected "
                "{expected}, found {found})",
                name=settings.model,
                source=published.source,
                expected=settings.pretrained_sha256,
                found=published.sha256,
            )
        )
    reason = tr("SHA-256 {sha256}", sha256=published.sha256)
    notify(escape_line(f"{tr('published weights')}: {published.source} ({reason})"))
    facts = {"pretrained_weights": published.source, "pretrained_sha256": published.sha256}
    return Start(network, published.normalisation if channels == 3 else None, facts, published=True)


def _start_from_model(
    settings: Settings, classes: tuple[str, ...], reading: ReadOptions, initial: InitialModel
) -> Start:
    channels = reading.channels
    network = transfer(initial, settings.model, classes, channels)
    origin = tr("run {run_id}, SHA-256 {sha256}", run_id=initial.run_id or tr("unknown"), sha256=initial.sha256)
    notify(escape_line(f"{tr('initial model')}: {initial.reference} ({origin})"))
    _report_classes(initial, classes)
    _report_bands(initial.channels, channels)
    mean, std = initial.normalisation.mean[:channels], initial.normalisation.std[:channels]
    normalisation = convert_units(Normalisation(mean, std), initial.value_ranges, reading.value_ranges)
    if normalisation is None:
        warn(
            tr(
                "the values of these images ({found}) are far from those of the initial model ({known}): normalised anew, by "
                "the data",
                found=_ranges(reading.value_ranges),
                known=_ranges(initial.value_ranges),
            )
        )
    return Start(network, normalisation)


def _ranges(ranges: tuple[tuple[float, float], ...]) -> str:
    return abbreviate((f"{low:g}-{high:g}" for low, high in ranges), 3)


def _report_classes(initial: InitialModel, classes: tuple[str, ...]) -> None:
    change = compare_classes(initial, classes)
    if not change.kept:
        warn(
            tr(
                "no class of the initial model has a name of this data ({found}): all of {classes} start anew",
                found=abbreviate(initial.classes, SHOWN),
                classes=abbreviate(classes, SHOWN),
            )
        )
    elif change.new or change.dropped:
        none = tr("none")
        text = tr(
            "classes of the initial model: kept {kept}; new {new}; no longer predicted {dropped}",
            kept=abbreviate(change.kept, SHOWN),
            new=abbreviate(change.new, SHOWN) if change.new else none,
            dropped=abbreviate(change.dropped, SHOWN) if change.dropped else none,
        )
        notify(escape_line(text))


def _report_bands(known: int, channels: int) -> None:
    if channels > known:
        notify(
            trn(
                "bands: the initial model knows {known}; {count} more starts from the mean of their filters",
                "bands: the initial model knows {known}; {count} more start from the mean of their filters",
                channels - known,
                known=known,
            )
        )
    elif channels < known:
        notify(
            tr("bands: the initial model knows {known}; the first {channels} are used", known=known, channels=channels)
        )
