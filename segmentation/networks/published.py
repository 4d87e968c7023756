"""Published weights: where they came from, how the images they were trained on were normalised, and their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.errors import UsageError
from core.i18n import tr
from segmentation.preprocess import Normalisation


@dataclass(frozen=True)
class PublishedWeights:
    """What a network that starts from published weights records about them."""

    source: str  # a package, a file of torch's cache, an address
    sha256: str  # of the tensors that were taken over, see `hash_tensors`
    normalisation: Normalisation  # of RGB images


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 (hex) over names, types, shapes and values: the same from a file, a package or a server."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def parse_normalisation(name: str, settings: Mapping[str, Any]) -> Normalisation:
    """Return mean and standard deviation in units of 0..1 from the settings of an encoder as timm and smp describe them.

    'mean' and 'std' hold one number a channel, in units of 'input_range' (0..1 if it is missing). Raises UsageError for
    weights of another order of channels than RGB, or of other numbers of channels.
    """
    space, (low, high) = settings.get("input_space") or "RGB", settings.get("input_range") or (0, 1)
    mean, std = (tuple(float(value) for value in settings[key]) for key in ("mean", "std"))
    if space != "RGB" or low != 0 or not len(mean) == len(std) == 3 or min(std) <= 0:
        raise UsageError(
            tr(
                "the published weights of '{name}' expect images in {space} from {low} to {high} (channels: {count}); only RGB from 0 "
                "is supported: leave out --pretrained, or choose another encoder",
                name=name,
                space=space,
                low=low,
                high=high,
                count=len(mean),
            )
        )
    return Normalisation(tuple(value / high for value in mean), tuple(value / high for value in std))
