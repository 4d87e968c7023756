"""Losses by name, with class weights; pixels of IGNORE_INDEX count in none of them.

Each returns (loss, weight): the mean over a batch, and the summed class weights of its labelled pixels, with which means of
batches of different content are put together. A batch without one labelled pixel has loss 0 and weight 0, not 0/0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.i18n import tr
from core.settings import InvalidSetting
from dataset.classes import IGNORE_INDEX

FOCAL_GAMMA = 2.0  # Lin et al., 2017, arXiv:1708.02002
AUXILIARY_SHARE = 0.5  # of the auxiliary head's loss, as in torchvision's recipes
RARITY = 1.02  # the smaller, the more a rare class weighs: up to 50 times, as in ENet (Paszke et al., 2016, arXiv:1606.02147)


class SegmentationLoss(nn.Module):
    """The loss of that name over logits (N,C,H,W) float32, or (logits, auxiliary logits), and labels (N,H,W) uint8."""

    def __init__(self, name: str, class_weights: Tensor) -> None:
        super().__init__()
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
        labels = labels.long()
        weight = self.table[labels].sum()
        loss = logits.new_zeros(())
        for term in self.terms:
            if term == "dice":
                loss = loss + dice(logits, labels)
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
