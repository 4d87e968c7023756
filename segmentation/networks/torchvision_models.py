"""Networks of torchvision, with its weights of COCO images and VOC classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.i18n import tr
from segmentation.networks.compact import resized
from segmentation.networks.published import PublishedWeights, hash_tensors, parse_normalisation
from segmentation.networks.search import Places, hub_file, no_fit, read_tensors

TORCHVISION = (
    *("fcn_resnet50", "fcn_resnet101", "lraspp_mobilenet_v3_large"),
    *("deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "deeplabv3_resnet101"),
)


class TorchvisionNetwork(nn.Module):
    """One of torchvision's; its auxiliary head is used in training only."""

    def __init__(self, name: str, num_classes: int, channels: int) -> None:
        super().__init__()
        from torchvision import models

        auxiliary = {} if name.startswith("lraspp") else {"aux_loss": True}
        self.inner = models.get_model(name, weights=None, weights_backbone=None, num_classes=num_classes, **auxiliary)
        if channels != 3:
            _adapt_first_layer(self.inner.backbone, channels)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features = self.inner.backbone(images)
        auxiliary = getattr(self.inner, "aux_classifier", None)
        logits = resized(self.inner.classifier(features if auxiliary is None else features["out"]), images)
        if auxiliary is None or not self.training:
            return logits
        return logits, resized(auxiliary(features["aux"]), images)


def build_pretrained(
    name: str, num_classes: int, channels: int, places: Places
) -> tuple[TorchvisionNetwork, PublishedWeights]:
    """Return a network with torchvision's weights; layers of another number of classes keep random weights.

    Raises OSError if they are neither in torch's cache nor can be downloaded.
    """
    from torchvision import models

    network, weights = TorchvisionNetwork(name, num_classes, 3), models.get_model_weights(name).DEFAULT
    found = places.find([weights.url.rpartition("/")[2]], [hub_file(weights.url)])
    source = str(weights.url) if found is None else found.source
    published = weights.get_state_dict(check_hash=True, weights_only=True) if found is None else read_tensors(found)
    own = network.inner.state_dict()
    fitting = {key: value for key, value in published.items() if key in own and own[key].shape == value.shape}
    if found is not None and any(key.startswith("backbone.") and key not in fitting for key in own):
        raise no_fit(found, name, tr("tensors of the backbone are missing"))
    network.inner.load_state_dict(own | fitting)
    if channels != 3:
        _adapt_first_layer(network.inner.backbone, channels)
    images = weights.transforms()
    normalisation = parse_normalisation(name, {"mean": images.mean, "std": images.std})
    return network, PublishedWeights(source, hash_tensors(fitting), normalisation)


def _adapt_first_layer(backbone: nn.Module, channels: int) -> None:
    """Replace the first convolution of RGB images by one of so many channels, with the same filters repeated."""
    name, first = next((name, module) for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d))
    adapted = nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]  # always a pair
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    with torch.no_grad():
        adapted.weight.copy_(first.weight[:, torch.arange(channels) % 3] * (3 / channels))
        if first.bias is not None and adapted.bias is not None:
            adapted.bias.copy_(first.bias)
    parent, _, child = name.rpartition(".")
    setattr(backbone.get_submodule(parent), child, adapted)
