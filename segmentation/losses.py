"""Losses by name, with class weights; pixels of IGNORE_INDEX count in none of them.

Each returns (loss, weight): the mean over a batch, and the summed class weights of its labelled pixels, with which means of
batches of different content are put together. A batch without one labelled pixel has loss 0 and weight 0, not 0/0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.i18n import tr
from core.settings import InvalidSetting
from dataset.classes import IGNORE_INDEX

FOCAL_GAMMA = 2.0  # Lin et al., 2017, arXiv:1708.02002
AUXILIARY_SHARE = 0.5  # of the auxiliary head's loss, as in torchvision's recipes
LOVASZ_PIXELS = 1_500  # per image that the Lovász loss sorts, evenly spread: all would take longer than the network
TAKEN_BACK = 0.5  # power of the class weights that the prediction does not have; 1: predicted as if there were none
RARITY = 1.02  # the smaller, the more a rare class weighs: up to 50 times, as in ENet (Paszke et al., 2016, arXiv:1606.02147)


class SegmentationLoss(nn.Module):
    """The loss of that name over logits (N,C,H,W) float32, or (logits, auxiliary logits), and labels (N,H,W) uint8.

    `adjustment`: what is added to the logits of each class before the loss, (C,), see `logit_adjustment`.
    """

    def __init__(self, name: str, class_weights: Tensor, adjustment: Tensor | None = None) -> None:
        super().__init__()
        self.adjustment: Tensor
        none = torch.zeros(len(class_weights))
        self.register_buffer("adjustment", none if adjustment is None else adjustment, persistent=False)
        self.terms = tuple(name.split("+"))
        # One weight for each of the 256 values of a label; those of no class, IGNORE_INDEX among them, weigh 0.
        table = torch.zeros(256)
        table[: len(class_weights)] = class_weights
        self.table: Tensor
        self.register_buffer("table", table, persistent=False)

    def forward(self, outputs: Tensor | tuple[Tensor, Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(outputs, Tensor):
            return self.loss_and_weight(outputs, labels)
        main, weight = self.loss_and_weight(outputs[0], labels)
        return main + AUXILIARY_SHARE * self.loss_and_weight(outputs[1], labels)[0], weight

    def loss_and_weight(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss of one set of logits, and the weight of its pixels."""
        labels, logits = labels.long(), logits + self.adjustment[:, None, None]
        weight = self.table[labels].sum()
        loss = logits.new_zeros(())
        for term in self.terms:
            if term == "dice":
                loss = loss + dice(logits, labels)
            elif term == "lovasz":
                loss = loss + lovasz(logits, labels)
            elif term == "focal":
                loss = loss + focal(logits, labels, self.table[: logits.shape[1]]) / weight.clamp_min(1e-6)
            else:
                summed = F.cross_entropy(
                    logits, labels, self.table[: logits.shape[1]], ignore_index=IGNORE_INDEX, reduction="sum"
                )
                loss = loss + summed / weight.clamp_min(1e-6)
        return loss, weight


def dice(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - soft Dice (Milletari et al., 2016, arXiv:1606.04797), over the whole batch, mean of the classes that occur in it."""
    known = (labels != IGNORE_INDEX).unsqueeze(1)
    shares = logits.softmax(1) * known
    truth = torch.zeros_like(shares).scatter_(1, labels.unsqueeze(1).where(known, 0), known.to(shares.dtype))
    both, either = (shares * truth).sum((0, 2, 3)), (shares + truth).sum((0, 2, 3))
    present = truth.sum((0, 2, 3)) > 0
    return ((1 - 2 * both / either.clamp_min(1e-6)) * present).sum() / present.sum().clamp_min(1)


def lovasz(logits: Tensor, labels: Tensor) -> Tensor:
    """Lovász-Softmax (Berman et al., 2018, arXiv:1705.08790), over LOVASZ_PIXELS per image, mean of the classes in them.

    It is the convex extension of 1 - IoU, so that rare classes count as much as frequent ones, and pixels that are
    predicted as a rare class by mistake count, too.
    """
    classes = logits.shape[1]
    step = labels[0].numel() // LOVASZ_PIXELS | 1  # odd: not the same columns in each row
    some = labels.flatten(1)[:, ::step].flatten()
    shares = logits.flatten(2)[:, :, ::step].softmax(1).transpose(0, 1).flatten(1)
    truth = (some == torch.arange(classes, device=some.device)[:, None]).to(shares.dtype)
    unknown = (some == IGNORE_INDEX).expand_as(truth)  # as if they were right: at the end, where they add nothing
    errors = (truth - shares).abs().masked_fill(unknown, 0.0)
    order = _descending(errors.detach())
    errors, hit, present = errors.gather(1, order), truth.gather(1, order), truth.any(1)
    both = hit.sum(1, keepdim=True) - hit.cumsum(1)
    jaccard = 1 - both / (both + torch.arange(1, hit.shape[1] + 1, device=hit.device))
    steps = torch.diff(jaccard, dim=1, prepend=jaccard.new_zeros(classes, 1))
    return ((errors * steps).sum(1) * present).sum() / present.sum().clamp_min(1)


def _descending(values: Tensor) -> Tensor:
    """Return the order of each row of values (N,M) from the largest to the smallest, int64; equal ones in any order."""
    if values.device.type == "cpu":  # numpy sorts with vector instructions, in a seventh of torch's time
        return torch.from_numpy(np.argsort(-values.numpy(), axis=1))
    return values.argsort(dim=1, descending=True, stable=True)


def focal(logits: Tensor, labels: Tensor, class_weights: Tensor) -> Tensor:
    """Sum the class-weighted cross-entropy in which a pixel of probability p counts (1 - p) ** FOCAL_GAMMA."""
    plain = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="none")
    known = labels != IGNORE_INDEX
    weights = class_weights[labels.where(known, 0)] * known
    return (weights * (1 - torch.exp(-plain)) ** FOCAL_GAMMA * plain).sum()


def class_weights(wanted: str, pixel_counts: Sequence[int]) -> tuple[Tensor, str]:
    """Return loss weights (num_classes,) float32, mean 1 over the classes that occur, and the reason for them, to be printed.

    'none': all equal; 'auto': 1 / ln(1.02 + p) of the share p of each class, so that rare ones are learnt at all; else one
    number for each class. A class that never occurs weighs 0. Raises UsageError.
    """
    counts = torch.tensor(pixel_counts, dtype=torch.float64)
    if wanted == "none":
        weights, reason = torch.ones_like(counts), tr("all equal, as set")
    elif wanted == "auto":
        weights = 1 / torch.log(RARITY + counts / counts.sum().clamp_min(1))
        reason = tr("rare classes weigh more, from the pixels of the training split")
    else:
        weights, reason = torch.tensor(parse_class_weights(wanted, len(counts)), dtype=torch.float64), tr("as set")
    weights = weights * (counts > 0)
    total = weights.sum()
    return (weights * (int((counts > 0).sum()) / total) if total > 0 else weights).float(), reason


def logit_adjustment(wanted: str, weights: Tensor) -> Tensor | None:
    """Return what the loss adds to the logits of each class for weights that were chosen by 'auto'; None for others.

    Weights help to learn rare classes, but predict them too often: a weight w multiplies the odds of its class by w. The
    loss adds a power of w to them itself, so that the network learns logits without it (Menon et al., 2021,
    arXiv:2007.07314). Weights that were given as numbers stay as they are.
    """
    return TAKEN_BACK * torch.where(weights > 0, weights, 1).log() if wanted == "auto" else None


def build_loss(name: str, wanted: str, pixel_counts: Sequence[int]) -> tuple[SegmentationLoss, str]:
    """Return the loss of that name with the class weights of `wanted`, and why they are these. Raises UsageError."""
    weights, reason = class_weights(wanted, pixel_counts)
    return SegmentationLoss(name, weights, logit_adjustment(wanted, weights)), reason


def parse_class_weights(text: str, num_classes: int | None = None) -> list[float]:
    """'1 2.5 4' -> numbers, 0 or more and not all 0, one for each class. Raises UsageError."""
    try:
        numbers = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if not numbers or not all(0 <= number < float("inf") for number in numbers) or not any(numbers):
        expected = tr("auto, none, or a number for each class, such as '1 2.5 4'")
        raise InvalidSetting("CLASS_WEIGHTS", text, expected)
    if num_classes is not None and len(numbers) != num_classes:
        problem = tr(
            "expected one number for each class of the data ({num_classes}), found {count}",
            num_classes=num_classes,
            count=len(numbers),
        )
        raise InvalidSetting("CLASS_WEIGHTS", text, problem=problem)
    return numbers
