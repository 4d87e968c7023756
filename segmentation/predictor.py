"""Predict class indices of images: resized or in tiles, optionally averaged with the flipped image, in PyTorch or ONNX Runtime."""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from core.i18n import tr
from core.machine.limits import usable_cores
from core.reporting import warn
from dataset.classes import UInt8
from segmentation.model import Model
from segmentation.prediction import Prediction, join_bands
from segmentation.preprocess import class_indices, native_logits, resize_image, resize_logits, to_input
from segmentation.reliability.input_watch import InputWatch
from segmentation.reliability.statistics import Figures, image_statistics
from segmentation.reliability.uncertainty import entropies, image_confidence, scaled, to_levels
from segmentation.tiles.activations import measure_activations
from segmentation.tiles.global_pooling import GlobalPoolingOverride, partition_tiles
from segmentation.tiles.logits_budget import LogitsBudget
from segmentation.tiles.out_of_memory import is_out_of_memory, memory_error
from segmentation.tiles.tiling import (
    ALIGN,
    Forward,
    Window,
    WindowSource,
    limit_margin,
    measure_receptive_field,
    predict_bands,
)
from segmentation.tiles.windows import compute_windows

AUTO_TILE = 2048  # pixels per side; `auto` does not cut images up to this size
WINDOW_BYTES = 3 << 28  # on a CPU, of a tile of an image that is read in windows: its pixels and activations
ACTIVATION_RESERVE = 1.2  # times the measured activations, for what the kernels of the CPU allocate themselves
INPUT_BYTES = 16  # per pixel and channel: samples as read, as bytes, as float32, and normalised
SMALLEST_TILE = 128  # pixels; in a smaller tile hardly anything is left between the margins


@dataclass(frozen=True)
class Method:
    """Options of a prediction.

    `tile`: None resizes an image to the model's input size, as validation does; a number keeps it at the scale of the
    training and cuts it into squares of that many pixels, 0 into the largest that fit in memory.
    `flip`: average the logits of the image and its left-right mirror image. `probabilities`: return them too.
    `uncertainty`: return how uncertain the class of a pixel is on average; `uncertainty_map`: that of each pixel.
    `compare`: compare each image with those of the training, if the model knows what they are like.
    """

    tile: int | None = None
    flip: bool = False
    probabilities: bool = False
    uncertainty: bool = False
    uncertainty_map: bool = False
    compare: bool = False


@dataclass(frozen=True)
class InputImage:
    """A decoded image: `pixels` (H,W,C) uint8, `resized` the same at the network's size, `sha256` (hex) of its file.

    `truncated`: the end of the file is missing, and a part of the pixels is grey. `statistics` (s,): those of `resized`,
    if images are compared with those of the training.
    """

    pixels: UInt8
    resized: UInt8
    sha256: str
    truncated: bool = False
    statistics: Figures | None = None


class Predictor:
    """A model on a device; safe to call from several threads. `forward` replaces the model's own network."""

    def __init__(
        self,
        model: Model,
        device: torch.device,
        method: Method | None = None,
        forward: Forward | None = None,
        engine: str = "torch",
    ) -> None:
        self.model, self.device, self.method, self.engine = model, device, method or Method(), engine
        self._plain_forward = forward or model.network
        self.forward: Forward = (
            functools.partial(_average_with_flip, self._plain_forward) if self.method.flip else self._plain_forward
        )
        self.cores = min(torch.get_num_threads(), usable_cores())  # who imported torch may not know the limits
        self._tile = self.method.tile or AUTO_TILE  # halved when memory runs out
        self._margins: dict[int, int] = {}
        self._pooling = GlobalPoolingOverride(model.network) if self.method.tile is not None else None
        self._watch = InputWatch(model, engine) if self.method.compare and model.inputs is not None else None
        self._lock = threading.Lock()
        self._logits = LogitsBudget(device)

    @property
    def measured(self) -> tuple[str, ...]:
        """Keys of what the record of an image has besides its classes."""
        uncertain = self.method.uncertainty or self.method.uncertainty_map
        return ("confidence", *(["uncertainty"] if uncertain else []), *(["drift"] if self._watch else []))

    @contextlib.contextmanager
    def streams(self, batches: int) -> Iterator[tuple[int, Callable[[], None] | None]]:
        """Yield how many threads should compute this many batches, and what each must call first.

        On a CPU, one thread per batch and one torch thread each, until the block ends: no thread waits for the slowest
        part of a batch, as it would in torch's own thread pool.
        """
        if self.device.type != "cpu" or batches < 2:
            yield 1, None
            return
        threads = torch.get_num_threads()
        try:
            yield self.cores, functools.partial(torch.set_num_threads, 1)
        finally:
            torch.set_num_threads(threads)

    def prepare(self, image: UInt8, sha256: str) -> InputImage:
        """Return the image with its resized copy; meant for the threads that read, which have time for it."""
        size = image.shape[0], image.shape[1]
        resized = resize_image(image, self.working_size(*size))
        return InputImage(image, resized, sha256, statistics=image_statistics(resized, size) if self._watch else None)

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) at which the network sees an image of this size."""
        if self.method.tile is None:
            return self.model.input_size
        vertical, horizontal = self.model.scale
        return max(16, round(height * vertical)), max(16, round(width * horizontal))

    @torch.inference_mode()
    def predict(self, images: Sequence[InputImage]) -> list[Prediction]:
        """Return a prediction of each image, at its own size. Raises AppError when memory is too small even for one image."""
        if self.method.tile is not None:
            return [self._predict_tiled(image) for image in images]
        try:
            return self._predict_compared(images)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        try:
            return [found for image in images for found in self._predict_compared([image])]
        except Exception as error:
            raise memory_error(error, "--tile auto") from error

    def _predict_compared(self, images: Sequence[InputImage]) -> list[Prediction]:
        """Predict resized images, and compare them with those of the training if that is requested."""
        with self._recording() as features:
            found = self._predict_resized(images)
        return self._compared(images, found, features[:1])  # a second pass has their mirror images

    def _recording(self) -> contextlib.AbstractContextManager[list[Tensor]]:
        """Return a context that yields a list of the features of each forward pass in it; empty if nothing is compared."""
        return self._watch.recording() if self._watch else contextlib.nullcontext([])

    def _unwatched(self) -> contextlib.AbstractContextManager[None]:
        """Return a context for forward passes that are not of an image."""
        return self._watch.paused() if self._watch else contextlib.nullcontext()

    def _compared(
        self, images: Sequence[InputImage], found: list[Prediction], features: Sequence[Tensor]
    ) -> list[Prediction]:
        """Return predictions with what a comparison of their images says, if it is requested."""
        if self._watch is None:
            return found
        compared = self._watch.compare([image.statistics for image in images], features)
        return [replace(prediction, drift=drift) for prediction, drift in zip(found, compared, strict=True)]

    def _predict_resized(self, images: Sequence[InputImage]) -> list[Prediction]:
        batch = torch.from_numpy(np.stack([image.resized for image in images])).permute(0, 3, 1, 2)
        sizes = [(image.pixels.shape[0], image.pixels.shape[1]) for image in images]
        logits = native_logits(self.forward, batch, sizes, self.model.normalisation, self.device)
        predictions = []
        for size in sizes:
            with self._logits.reserved(size[0] * size[1] * self.model.classes.num_classes):
                predictions.append(self._to_prediction(next(logits)))
        return predictions

    def _to_prediction(self, logits: Tensor) -> Prediction:
        """Return the prediction of logits (num_classes,H,W) float32 at native size."""
        method, temperature = self.method, self.model.temperature
        probabilities = levels = uncertainty = None
        if method.uncertainty or method.uncertainty_map:
            entropy = entropies(logits, temperature)
            uncertainty = float(entropy.mean(dtype=torch.float64))
            levels = to_levels(entropy) if method.uncertainty_map else None
        if method.probabilities:
            probabilities = scaled(logits, temperature).softmax(0).to(torch.float16).cpu().numpy()
        return Prediction(
            indices=class_indices(logits).to(torch.uint8).cpu().numpy(),
            probabilities=probabilities,
            uncertainty=uncertainty,
            levels=levels,
            confidence=image_confidence(logits, temperature),
        )

    # --- tiles ----------------------------------------------------------------------------------------------------

    def _predict_tiled(self, image: InputImage) -> Prediction:
        """Predict in tiles; when memory runs out, halve the tile for this image and all that follow."""
        while True:
            tile = self._tile
            try:
                with self._recording() as features:
                    found = self._predict_with_tile(image, tile)
                return self._compared([image], [found], features)[0]
            except Exception as error:
                if not is_out_of_memory(error) or tile // 2 < SMALLEST_TILE:
                    raise memory_error(error, tr("smaller images")) from error
                self._tile = min(self._tile, tile // 2)
                warn(tr("out of memory: continuing with tiles of {tile} pixels", tile=self._tile))

    def _predict_with_tile(self, item: InputImage, tile: int) -> Prediction:
        height, width = item.resized.shape[:2]
        cut = max(height, width) > tile
        # The last row of an image of odd size would be scaled differently in a tile: repeat it to make the size even.
        odd = ((0, height % 2), (0, width % 2), (0, 0)) if cut else ((0, 0),) * 3
        even = np.pad(item.resized, odd, "edge")
        batch = torch.from_numpy(np.ascontiguousarray(even)).permute(2, 0, 1)[None]
        image = to_input(batch, self.model.normalisation, self.device)[0]
        size = item.pixels.shape[0], item.pixels.shape[1]
        joined = self._tiled_logits(image, tile) if cut else [(0, self.forward(image[None])[0].float())]
        bands = (band[:, : height - top, :width] for top, band in joined)
        if (height, width) != size:
            logits = torch.cat(list(bands), 1)
            with self._logits.reserved(size[0] * size[1] * self.model.classes.num_classes):
                return self._to_prediction(resize_logits(logits, size))
        return join_bands([self._to_prediction(band) for band in bands])

    def _tiled_logits(self, image: Tensor, tile: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the bands of `predict_bands`, averaged with those of the mirror image if `flip`."""
        bands = self._raw_bands(image, tile)
        if not self.method.flip:
            return bands
        mirrored = self._raw_bands(image.flip(-1), tile)
        return ((top, (one + other.flip(-1)) / 2) for (top, one), (_, other) in zip(bands, mirrored, strict=True))

    def _raw_bands(self, image: Tensor, tile: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the bands of one image, with the global means of the full image."""
        margin = self._margin_of(tile)
        if not self._pooling:
            return predict_bands(self._plain_forward, image, tile, margin)
        # An exported model always averages over what it sees: the network itself has to compute the tiles then.
        forward = self._plain_forward if self.engine == "torch" else self.model.network
        with self._unwatched():
            means = self._pooling.compute_means(image, tile, margin)
        return predict_bands(self._pooling.with_means(means, forward), image, tile, margin)

    # --- windows --------------------------------------------------------------------------------------------------

    def with_tiles(self) -> Predictor:
        """Return this predictor, or one that cuts images, where this one resizes them."""
        if self.method.tile is not None:
            return self
        method = replace(self.method, tile=0)
        return Predictor(self.model, self.device, method, self._plain_forward, self.engine)

    def count_windows(self, image: WindowSource) -> int:
        """Return how many windows `predict_windows` yields."""
        return math.prod(map(len, self._partition(image, self.window_size(image))))

    def window_size(self, image: WindowSource) -> int:
        """Return the side of the tiles of an image that is read in windows, pixels: as large as memory allows on a CPU.

        A tile is computed with margins that are discarded: larger ones waste less.
        """
        tile = self._tile
        if self.method.tile or self.device.type != "cpu":
            return tile
        per_pixel = ACTIVATION_RESERVE * self._activations + INPUT_BYTES * self.model.reading.channels
        per_pixel += 4 * self.model.classes.num_classes  # the logits, while their classes are chosen
        while tile > SMALLEST_TILE and tile * (tile * per_pixel + image.row_bytes) > WINDOW_BYTES:
            tile -= ALIGN
        return tile

    @functools.cached_property
    def _activations(self) -> float:
        """Bytes per pixel that the network needs."""
        return measure_activations(self._measured_network, self.device, self.model.reading.channels)

    def predict_windows(self, image: WindowSource) -> Iterator[Window]:
        """Yield the windows of an image that is read in parts, row by row; a window without data is not computed.

        Each pixel is taken from the tile that it is deepest in. Raises AppError when memory runs out.
        """
        tile = self.window_size(image)
        forward = self._plain_forward
        with torch.inference_mode():
            if self._pooling:
                means = self._pooling.compute_means(image, tile, self._margin_of(tile))
                forward = self._pooling.with_means(means, forward if self.engine == "torch" else self.model.network)
        yield from compute_windows(forward, image, tile, self._partition(image, tile))

    def _partition(self, image: WindowSource, tile: int) -> tuple[list[tuple[int, slice]], list[tuple[int, slice]]]:
        margin = self._margin_of(tile)
        rows, columns = (partition_tiles(length, tile, margin) for length in image.shape[-2:])
        return rows, columns

    @property
    def _measured_network(self) -> Forward:
        """The network by which margins and memory are measured."""
        return self._pooling.forward_without_means if self._pooling else self.model.network

    def _margin_of(self, tile: int) -> int:
        """Return how many pixels at a tile's edges are discarded; warn once if the tile is too small for a sufficient margin."""
        with self._lock:
            if tile not in self._margins:
                channels = self.model.reading.channels
                with self._unwatched():  # its strips contain NaN
                    wanted = measure_receptive_field(self._measured_network, self.device, channels=channels)
                self._margins[tile] = limit_margin(tile, wanted)
                if self._margins[tile] < wanted:
                    enough = 2 * wanted + 3 * ALIGN
                    warn(
                        tr(
                            "tiles of {tile} pixels may show seams with this network: use at least {enough}",
                            tile=tile,
                            enough=enough,
                        )
                    )
            return self._margins[tile]


def _average_with_flip(forward: Forward, images: Tensor) -> Tensor:
    """Return the mean of the logits of images (N,C,H,W) and of their left-right mirror images."""
    return (forward(images) + forward(images.flip(-1)).flip(-1)) / 2


def segment(model: Model, images: Sequence[UInt8], device: torch.device) -> list[UInt8]:
    """Return class indices (H,W) uint8 of images (H,W,C) uint8, each at its own size, as one batch, as infer.py does."""
    predictor = Predictor(model, device)
    prepared = [predictor.prepare(image, "") for image in images]
    return [prediction.indices for prediction in predictor.predict(prepared)]
