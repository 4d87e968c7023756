"""TrainingSetup: all that a training is built from; settings that are open are decided from the data and the machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn

from config import Settings
from core.i18n import tr, trn
from core.machine.heap import keep_freed_memory
from core.reporting import notify
from core.safety.terminal import escape_line
from core.settings import InvalidSetting
from dataset.data import SegmentationData
from segmentation.losses import SegmentationLoss, build_loss, parse_class_weights
from segmentation.networks.encoder_fpn import EncoderFPN
from segmentation.preprocess import Normalisation, choose_device
from train import auto_settings
from train.base_train import SMOKE_BATCHES
from train.loading import loader
from train.parallel import distributed
from train.warm_start.initial import Initial, InitialEnsemble, InitialModel
from train.warm_start.network import Start, build_start
from train.warm_start.transfer import transfer

SAME_SCALE = 0.02  # relative difference of two scales of images that have the same size but for rounding
T = TypeVar("T")


@dataclass(frozen=True)
class TrainingSetup:
    """Data, network and hyperparameters of one training; sizes are (height, width) in pixels."""

    settings: Settings
    smoke: bool
    data: SegmentationData
    device: torch.device
    size: tuple[int, int]  # of the network's input
    crop: tuple[int, int]  # of the part that a training step uses
    train_images: loader.SegmentationDataset
    val_images: loader.SegmentationDataset
    test_images: loader.SegmentationDataset | None  # read once, at the end: never in the cache
    normalisation: Normalisation
    criterion: SegmentationLoss
    network: nn.Module
    batch_size: int  # of all processes together
    epochs: int  # unless MAX_SECONDS ends the training
    peak_rate: float
    encoder_share: float  # of the learning rate, for an encoder with published weights
    precision: torch.dtype
    augmentation: str
    validate_every: int  # epochs from one validation to the next
    initial: Initial | None = None  # what the network started from
    resolved: dict[str, str] = field(default_factory=dict)  # open settings -> decided values, as text

    @property
    def crops_on_labels(self) -> bool:
        """Whether training crops are moved to labels: if more than half of the pixels of train are ignored.

        A GPU has to wait for each image that is looked at; a crop of other data hardly ever lacks a label.
        """
        ignored = self.data.ignored_pixels.get("train", 0)
        return ignored > sum(self.data.pixel_counts["train"])

    def epoch_batches(self, epoch: int) -> list[list[int]]:
        """Return the batches of all processes together; each takes its part of every one.

        So the number of processes does not change the steps.
        """
        least = 2 * distributed.world_size()
        order = loader.epoch_batches(len(self.train_images), self.batch_size, self.settings.seed, epoch, least)
        return order[:SMOKE_BATCHES] if self.smoke else order

    def initial_record(self) -> dict[str, str]:
        """Return what run, commit and model file say about the model that the network started from."""
        return self.initial.record() if self.initial else {}

    def plan_reads(self, epoch: int) -> None:
        """Tell the cache of streamed files what this epoch and the next one read."""
        if self.train_images.streamed:
            count, seed = len(self.train_images), self.settings.seed
            orders = [loader.epoch_batches(count, count, seed, number, 1)[0] for number in (epoch, epoch + 1)]
            loader.plan_reads(self.train_images, self.val_images, epoch, orders)

    def resolved_settings(self) -> dict[str, Any]:
        """Return the settings that decide the result, with what memory and speed of this machine decided."""
        return {
            **self.settings.reproducible_settings(),
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            "augmentation": self.augmentation,
            "validate_every": self.validate_every,
            "pretrained_sha256": self.resolved.get("pretrained_sha256"),
        }


class _Decisions:
    """Reports each decision with its reason and remembers it."""

    def __init__(self, device: torch.device) -> None:
        self.resolved = {"device": str(device)}

    def take(self, name: str, key: str, choice: tuple[T, str]) -> T:
        """Report and remember (value, reason); return the value."""
        value, reason = choice
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value).removeprefix("torch.")
        notify(escape_line(f"{name}: {shown} ({reason})"))
        self.resolved[key] = shown
        return value


def prepare_training(
    settings: Settings, data: SegmentationData, smoke: bool = False, initial: Initial | None = None
) -> TrainingSetup:
    """Decode the images, build network and loss, and decide what the settings leave open. Raises UsageError.

    `initial` is what INIT names, see `load_initial`. It seeds torch and, on the CPU, lets the process keep freed memory
    for the training steps.
    """
    torch.manual_seed(settings.seed)
    device = _training_device(settings)
    if device.type == "cpu":
        keep_freed_memory()
    decisions = _Decisions(device)
    decisions.resolved["stream"] = "always" if data.source.streamed else "never"
    size = decisions.take(tr("input size"), "image_size", _working_size(settings, data, initial))
    crop = settings.crop_size or size
    train_images, val_images, test_images = _images(settings, data, size)
    criterion = _criterion(settings, data, decisions)
    start = _start(settings, data, initial, decisions)
    network, normalisation = start.network, _normalisation(start.normalisation, train_images, settings)
    choice = _batch_size(settings, network, crop, device, train_images)
    batch_size = decisions.take(tr("batch size"), "batch_size", choice)
    distributed.validate_batch_size(batch_size)
    epochs, reason = _epochs(settings, len(train_images), batch_size, smoke)
    if smoke or settings.max_seconds is None:
        decisions.take(tr("epochs"), "epochs", (epochs, reason))
    expected = 1.0 if smoke else _expected_epochs(settings, epochs, network, batch_size, crop, device, train_images)
    augmentation = decisions.take(
        tr("augmentation"), "augmentation", auto_settings.augmentation(settings.augmentation, expected)
    )
    interval = auto_settings.validation_interval(
        settings.validate_every, expected, len(train_images) * crop[0] * crop[1], _validation_pixels(size, data)
    )
    validate_every = decisions.take(tr("epochs per validation"), "validate_every", interval)
    peak_rate, encoder_share = _rates(settings, start, initial, decisions)
    precision = decisions.take(tr("precision"), "precision", auto_settings.precision(settings.precision, device))
    _report_network(settings.model, network, data.classes.num_classes, device)
    return TrainingSetup(
        settings=settings,
        smoke=smoke,
        data=data,
        device=device,
        size=size,
        crop=crop,
        train_images=train_images,
        val_images=val_images,
        test_images=test_images,
        normalisation=normalisation,
        criterion=criterion.to(device),
        network=network,
        batch_size=batch_size,
        epochs=epochs,
        peak_rate=peak_rate,
        encoder_share=encoder_share,
        precision=precision,
        augmentation=augmentation,
        validate_every=validate_every,
        initial=initial,
        resolved=decisions.resolved,
    )


def _criterion(settings: Settings, data: SegmentationData, decisions: _Decisions) -> SegmentationLoss:
    criterion, reason = build_loss(settings.loss, settings.class_weights, data.pixel_counts["train"])
    weights = criterion.table[: data.classes.num_classes].tolist()
    decisions.take(tr("class weights"), "class_weights", (" ".join(f"{weight:.2f}" for weight in weights), reason))
    return criterion


def _start(settings: Settings, data: SegmentationData, initial: Initial | None, decisions: _Decisions) -> Start:
    """Return the network with its first weights, those of them frozen that stay as they are."""
    start = build_start(settings, data.classes.names, data.reading, initial)
    decisions.resolved |= start.facts
    levels, reason = auto_settings.frozen_levels(settings.model, start.published, data.reading.channels)
    if isinstance(start.network, EncoderFPN) and levels:
        decisions.take(tr("frozen levels of the encoder"), "frozen_levels", (levels, reason))
        start.network.freeze_first_levels(levels)
    return start


def _rates(settings: Settings, start: Start, initial: Initial | None, decisions: _Decisions) -> tuple[float, float]:
    """Return the peak learning rate, and the part of it that an encoder with published weights learns at."""
    trained = isinstance(initial, InitialModel)
    rate = auto_settings.peak_rate(settings.learning_rate, settings.model, start.published, trained)
    peak_rate = decisions.take(tr("peak learning rate"), "learning_rate", rate)
    encoder_share, reason = auto_settings.encoder_share(settings.model, start.published)
    if encoder_share < 1:
        decisions.take(tr("part of it for the encoder"), "encoder_share", (encoder_share, reason))
    return peak_rate, encoder_share


def _normalisation(
    of_weights: Normalisation | None, images: loader.SegmentationDataset, settings: Settings
) -> Normalisation:
    """Return the normalisation that belongs to the weights; the data decides the channels that those do not know."""
    channels = images.split.reading.channels
    if of_weights is not None and len(of_weights.mean) == channels:
        return of_weights
    measured = loader.normalisation_of(images, settings.cache_dir / "checks")
    known = of_weights or Normalisation((), ())
    count = len(known.mean)
    return Normalisation(known.mean + measured.mean[count:], known.std + measured.std[count:])


def _working_size(settings: Settings, data: SegmentationData, initial: Initial | None) -> tuple[tuple[int, int], str]:
    """Return the input size and why: that of the initial model, if its images had the size of these."""
    if settings.image_size is None and isinstance(initial, InitialModel):
        scale = auto_settings.working_scale(data, initial.input_size)
        if all(abs(now / before - 1) < SAME_SCALE for now, before in zip(scale, initial.scale, strict=True)):
            return initial.input_size, tr("that of the initial model")
    return auto_settings.working_size(data, settings.image_size)


def check_data(settings: Settings, data: SegmentationData, initial: Initial | None = None) -> None:
    """Raise UsageError for settings and initial weights that do not fit the data: before anything is uploaded."""
    if settings.class_weights not in ("auto", "none"):
        parse_class_weights(settings.class_weights, data.classes.num_classes)
    members = initial.members if isinstance(initial, InitialEnsemble) else (initial,)
    for model in members:
        if isinstance(model, InitialModel):
            transfer(model, settings.model, data.classes.names, data.reading.channels)


def _images(
    settings: Settings, data: SegmentationData, size: tuple[int, int]
) -> tuple[loader.SegmentationDataset, loader.SegmentationDataset, loader.SegmentationDataset | None]:
    """Return the images of train, val and test at this input size; those of train and val are decoded ahead."""
    how, test = (data.reading, data.source), data.split("test")
    train = loader.SegmentationDataset(data.split("train"), data.classes, size, False, *how)
    val = loader.SegmentationDataset(data.split("val"), data.classes, size, True, *how)
    room = settings.picture_cache_gb * 1e9 - loader.downloaded_bytes(data, settings.cache_dir)
    loader.attach_decoded_cache(settings.decoded_dir, room, train, val)
    return train, val, loader.SegmentationDataset(test, data.classes, size, True, *how) if test else None


def _validation_pixels(size: tuple[int, int], data: SegmentationData) -> tuple[int, int]:
    """Return the pixels of val at the input size, and at native size."""
    pairs = data.split("val")
    return len(pairs) * size[0] * size[1], sum(pair.height * pair.width for pair in pairs)


def _report_network(name: str, network: nn.Module, classes: int, device: torch.device) -> None:
    parameters = sum(p.numel() for p in network.parameters())
    notify(
        trn(
            "model {model}: {parameters:,} parameters, {count} class, device {device}",
            "model {model}: {parameters:,} parameters, {count} classes, device {device}",
            classes,
            model=name,
            parameters=parameters,
            device=device,
        )
    )


def check_device(settings: Settings) -> torch.device:
    """Return the device of the settings. Raises UsageError if the machine does not have it."""
    device = choose_device(settings.device)
    if settings.sync_batchnorm and device.type != "cuda":
        raise InvalidSetting("SYNC_BATCHNORM", True, problem=tr("works on GPUs only"))
    return device


def _training_device(settings: Settings) -> torch.device:
    device = check_device(settings)
    if device.type == "cuda" and distributed.world_size() > 1:
        device = torch.device("cuda", distributed.local_rank())
        torch.cuda.set_device(device)
    return device


def _epochs(settings: Settings, images: int, batch_size: int, smoke: bool) -> tuple[int, str]:
    """Return the number of epochs, and why, by the optimizer steps that an epoch has."""
    if smoke:
        return 1, tr("--smoke: {count} batches", count=SMOKE_BATCHES)
    batches = len(loader.epoch_batches(images, batch_size, settings.seed, 0, 2 * distributed.world_size()))
    return auto_settings.epochs(settings.epochs, -(-batches // settings.accumulate), images, batch_size)


def _batch_size(
    settings: Settings,
    network: nn.Module,
    crop: tuple[int, int],
    device: torch.device,
    images: loader.SegmentationDataset,
) -> tuple[int, str]:
    """Return one batch size for all processes and for a resumed run, however much memory each has, and why."""
    channels, processes = images.split.reading.channels, distributed.world_size()
    return distributed.broadcast_from_main(
        lambda: auto_settings.batch_size(settings.batch_size, network, crop, device, len(images), channels, processes)
    )


def _expected_epochs(
    settings: Settings,
    epochs: int,
    network: nn.Module,
    batch_size: int,
    crop: tuple[int, int],
    device: torch.device,
    images: loader.SegmentationDataset,
) -> float:
    """Return the number of epochs, estimated from trial steps if time ends the training: it decides the augmentation."""
    if settings.augmentation != "auto" or settings.max_seconds is None:
        return float(epochs)
    channels = images.split.reading.channels
    own = -(-batch_size // distributed.world_size())
    step = distributed.broadcast_from_main(lambda: auto_settings.step_seconds(network, own, crop, device, channels))
    return settings.max_seconds / step * batch_size / len(images)
