"""From pictures to class indices with a model: whole or in tiles, mirrored too, on PyTorch or ONNX Runtime."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.errors import AppError
from core.i18n import tr
from core.reporting import warn
from dataset.classes import UInt8
from segmentation.global_pooling import GlobalPoolingOverride
from segmentation.model_file import Model
from segmentation.preprocess import class_indices, native_logits, resize_image, resize_logits, to_input
from segmentation.tiling import ALIGN, Forward, largest_margin, reach, tiled

AUTO_TILE = 2048  # pixels a side; `auto` takes pictures whole up to this size
MOST_LOGITS = 1 << 28  # at native size, in all streams together: 1 GiB of float32
NO_MEMORY = (
    *("out of memory", "not enough memory", "can't allocate memory"),  # torch's, on MPS, Windows and Linux
    *("could not create a primitive", "failed to allocate memory", "bad_alloc"),  # oneDNN's, ONNX Runtime's, C++'s
)
SMALLEST_TILE = 128  # below it, hardly anything of a tile is left between its margins


@dataclass(frozen=True)
class Method:
    """How a picture becomes classes. `tile`: None resizes it to the model's input, as validation does; a number keeps it
    at the scale of the training and cuts it into squares of that many pixels, 0 into the largest that fit.
    `flip`: the mean of the picture and its mirror image. `probabilities`: keep them.
    """

    tile: int | None = None
    flip: bool = False
    probabilities: bool = False


@dataclass(frozen=True)
class Picture:
    """A decoded picture: `image` (H,W,3) uint8, `small` the same at working size, `sha256` (hex) of its file."""

    image: UInt8
    small: UInt8
    sha256: str


@dataclass(frozen=True)
class Prediction:
    """Class indices (H,W) uint8; probabilities (num_classes,H,W) float16 where they are asked for."""

    indices: UInt8
    probabilities: npt.NDArray[np.float16] | None = None


class Predictor:
    """A model on a device; safe to call from several threads. `forward` takes the place of the model's own network."""

    def __init__(
        self,
        model: Model,
        device: torch.device,
        method: Method | None = None,
        forward: Forward | None = None,
        engine: str = "torch",
    ) -> None:
        self.model, self.device, self.method, self.engine = model, device, method or Method(), engine
        self._one_way = forward or model.network
        self.forward: Forward = (
            functools.partial(_with_mirror_image, self._one_way) if self.method.flip else self._one_way
        )
        self.cores = torch.get_num_threads()
        self._tile = self.method.tile or AUTO_TILE  # smaller after the first time that memory runs out
        self._margins: dict[int, int] = {}
        self._means = GlobalPoolingOverride(model.network) if self.method.tile is not None else None
        self._lock = threading.Lock()
        self._native, self._less = 0, threading.Condition()  # logits at native size that streams hold now

    @contextlib.contextmanager
    def streams(self, batches: int) -> Iterator[tuple[int, Callable[[], None] | None]]:
        """How many threads shall compute this many batches, and what each must call first.

        On a CPU one thread a batch: none of them waits for the slowest part of a batch, as it would in a pool of torch's.
        """
        if self.device.type != "cpu" or batches < 2:
            yield 1, None
            return
        try:
            yield self.cores, functools.partial(torch.set_num_threads, 1)
        finally:
            torch.set_num_threads(self.cores)

    def picture(self, image: UInt8, sha256: str) -> Picture:
        """The picture with what the network needs of it, made where there is time: in the threads that read."""
        return Picture(image, resize_image(image, self.working_size(image.shape[0], image.shape[1])), sha256)

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) at which the network sees a picture of this size."""
        if self.method.tile is None:
            return self.model.input_size
        vertical, horizontal = self.model.scale
        return max(16, round(height * vertical)), max(16, round(width * horizontal))

    @torch.inference_mode()
    def predict(self, pictures: Sequence[Picture]) -> list[Prediction]:
        """A prediction of each picture, at its own size. Raises AppError where memory is too small for any way."""
        if self.method.tile is not None:
            return [self._in_tiles(picture) for picture in pictures]
        try:
            return self._whole(pictures)
        except Exception as error:
            if not _out_of_memory(error):
                raise
        try:
            return [prediction for picture in pictures for prediction in self._whole([picture])]
        except Exception as error:
            raise _too_large(error, "--tile auto") from error

    def _whole(self, pictures: Sequence[Picture]) -> list[Prediction]:
        images = torch.from_numpy(np.stack([picture.small for picture in pictures])).permute(0, 3, 1, 2)
        sizes = [(picture.image.shape[0], picture.image.shape[1]) for picture in pictures]
        logits = native_logits(self.forward, images, sizes, self.model.normalisation, self.device)
        found = []
        for size in sizes:
            with self._room(size):
                found.append(self._prediction(next(logits)))
        return found

    @contextlib.contextmanager
    def _room(self, size: tuple[int, int]) -> Iterator[None]:
        """Waits until the logits of a picture of this size fit beside those of the other streams, or are alone."""
        wanted = size[0] * size[1] * self.model.classes.num_classes
        with self._less:
            self._less.wait_for(lambda: not self._native or self._native + wanted <= MOST_LOGITS)
            self._native += wanted
        try:
            yield
        finally:
            with self._less:
                self._native -= wanted
                self._less.notify_all()

    def _prediction(self, logits: Tensor) -> Prediction:
        """logits (num_classes,H,W) float32 at native size."""
        indices = class_indices(logits).to(torch.uint8).cpu().numpy()
        if not self.method.probabilities:
            return Prediction(indices)
        return Prediction(indices, logits.softmax(0).to(torch.float16).cpu().numpy())

    # --- tiles ----------------------------------------------------------------------------------------------------

    def _in_tiles(self, picture: Picture) -> Prediction:
        """Halves the tile where memory runs out, for this picture and all that follow."""
        while True:
            tile = self._tile
            try:
                return self._in_tiles_of(picture, tile)
            except Exception as error:
                if not _out_of_memory(error) or tile // 2 < SMALLEST_TILE:
                    raise _too_large(error, tr("smaller pictures")) from error
                self._tile = min(self._tile, tile // 2)
                warn(tr("out of memory: tiles of {tile} pixels from here on", tile=self._tile))

    def _in_tiles_of(self, picture: Picture, tile: int) -> Prediction:
        height, width = picture.small.shape[:2]
        cut = max(height, width) > tile
        # The last rows of an odd picture would be stretched differently in a tile: it gets even by repeating them.
        odd = ((0, height % 2), (0, width % 2), (0, 0)) if cut else ((0, 0),) * 3
        even = np.pad(picture.small, odd, "edge")
        batch = torch.from_numpy(np.ascontiguousarray(even)).permute(2, 0, 1)[None]
        image = to_input(batch, self.model.normalisation, self.device)[0]
        size = picture.image.shape[0], picture.image.shape[1]
        joined = self._cut(image, tile) if cut else [(0, self.forward(image[None])[0].float())]
        bands = (logits[:, : height - top, :width] for top, logits in joined)
        if (height, width) != size:
            small = torch.cat(list(bands), 1)
            with self._room(size):
                return self._prediction(resize_logits(small, size))
        parts = [self._prediction(band) for band in bands]
        kept = [part.probabilities for part in parts if part.probabilities is not None]
        return Prediction(np.concatenate([part.indices for part in parts]), np.concatenate(kept, 1) if kept else None)

    def _cut(self, image: Tensor, tile: int) -> Iterator[tuple[int, Tensor]]:
        """What `tiles.tiled` yields, with the means of the whole picture, and of its mirror image where that is wanted."""
        bands = self._bands(image, tile)
        if not self.method.flip:
            return bands
        mirrored = self._bands(image.flip(-1), tile)
        return ((top, (one + other.flip(-1)) / 2) for (top, one), (_, other) in zip(bands, mirrored, strict=True))

    def _bands(self, image: Tensor, tile: int) -> Iterator[tuple[int, Tensor]]:
        margin = self._margin(tile)
        if not self._means:
            return tiled(self._one_way, image, tile, margin)
        # An exported file takes its means of what it sees: then the network itself computes the tiles.
        forward = self._one_way if self.engine == "torch" else self.model.network
        means = self._means.measured(image, tile, margin)
        return tiled(self._means.given(means, forward), image, tile, margin)

    def _margin(self, tile: int) -> int:
        """How much of a tile's edges is left out; says once where a tile has not enough of it."""
        with self._lock:
            if tile not in self._margins:
                wanted = reach(self._means.left_out if self._means else self.model.network, self.device)
                self._margins[tile] = largest_margin(tile, wanted)
                if self._margins[tile] < wanted:
                    enough = 2 * wanted + 3 * ALIGN
                    warn(
                        tr(
                            "tiles of {tile} are small for this network: from {enough} on there are no seams",
                            tile=tile,
                            enough=enough,
                        )
                    )
            return self._margins[tile]


def _with_mirror_image(forward: Forward, images: Tensor) -> Tensor:
    """The mean of the logits of images (N,3,H,W) and of their left-right mirror images."""
    return (forward(images) + forward(images.flip(-1)).flip(-1)) / 2


def _out_of_memory(error: Exception) -> bool:
    """PyTorch and ONNX Runtime have no type of their own for it, but for CUDA's."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(words in str(error).lower() for words in NO_MEMORY)


def _too_large(error: Exception, advice: str) -> Exception:
    """What to raise for it: the error itself, unless it is about memory."""
    if not _out_of_memory(error):
        return error
    return AppError(tr("out of memory: use {advice}", advice=advice))


def segment(model: Model, images: Sequence[UInt8], device: torch.device) -> list[UInt8]:
    """Class indices (H,W) uint8 of pictures (H,W,3) uint8, each at its own size, as one batch: as infer.py does it."""
    predictor = Predictor(model, device)
    pictures = [predictor.picture(image, "") for image in images]
    return [prediction.indices for prediction in predictor.predict(pictures)]
