"""Segmentation metrics, losses and class weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UsageError
from dataset.classes import IGNORE_INDEX
from segmentation.losses import SegmentationLoss, class_weights
from segmentation.metrics import ConfusionMatrix


@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_metrics_match_a_direct_computation(seed: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.choice([*range(classes), IGNORE_INDEX], size=(2, 9, 7)).astype(np.uint8)
    predicted = random.integers(0, classes, labels.shape).astype(np.uint8)
    matrix = ConfusionMatrix(classes)
    for one, other in zip(predicted, labels, strict=True):
        matrix.update(torch.from_numpy(one), torch.from_numpy(other))
    known = labels != IGNORE_INDEX
    assert matrix.accuracy == pytest.approx((predicted == labels)[known].mean() if known.any() else 0)
    ious = []
    for c in range(classes):
        both, either = ((predicted == c) & (labels == c)).sum(), ((predicted == c) & known | (labels == c)).sum()
        ious.append(both / either if (labels == c).any() else None)
    assert matrix.iou() == pytest.approx(ious)
    present = [value for value in ious if value is not None]
    assert matrix.miou == pytest.approx(np.mean(present) if present else 0)


def test_absent_class_is_excluded_and_named() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([0, 0, 2]), torch.tensor([0, 0, 0]))
    assert matrix.iou() == [pytest.approx(2 / 3), None, None]
    assert matrix.miou == pytest.approx(2 / 3) and matrix.absent(["a", "b", "c"]) == ["b", "c"]
    with pytest.raises(ValueError, match=r"labels of no class: \[7\]"):
        matrix.update(torch.tensor([0]), torch.tensor([7], dtype=torch.uint8))


LOSSES = ("ce", "dice", "ce+dice", "focal")


@pytest.mark.parametrize("name", LOSSES)
def test_loss_ignores_unlabelled_pixels_and_is_zero_for_the_truth(name: str) -> None:
    criterion = SegmentationLoss(name, torch.tensor([1.0, 2.0, 0.5]))
    labels = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    labels[0] = IGNORE_INDEX
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss, weight = criterion(logits, labels)
    loss.backward()
    assert logits.grad is not None and bool((logits.grad[0] == 0).all()) and bool((logits.grad[1] != 0).any())
    assert float(weight) == pytest.approx(float(criterion.table[labels.long()].sum()))
    assert float(criterion(logits[1:].detach(), labels[1:])[0]) == pytest.approx(float(loss.detach()), rel=1e-5)
    truth = torch.nn.functional.one_hot(labels[1:].long(), 3).permute(0, 3, 1, 2) * 50.0
    assert float(criterion(truth, labels[1:])[0]) == pytest.approx(0, abs=1e-5)
    nothing, weight = criterion(logits, torch.full_like(labels, IGNORE_INDEX))
    nothing.backward()
    assert float(nothing.detach()) == 0 == float(weight)


def test_losses_match_their_definitions() -> None:
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(2, 3, 5, 4), torch.randint(0, 3, (2, 5, 4)), torch.tensor([1.0, 2.0, 0.5])
    loss = {name: float(SegmentationLoss(name, weights)(logits, labels)[0]) for name in LOSSES}
    assert loss["ce"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels, weights)))
    assert loss["ce+dice"] == pytest.approx(loss["ce"] + loss["dice"])
    shares = logits.softmax(1).transpose(0, 1).flatten(1)
    truth = torch.stack([(labels == c).flatten() for c in range(3)]).float()
    by_hand = 1 - 2 * (shares * truth).sum(1) / (shares.sum(1) + truth.sum(1))
    assert loss["dice"] == pytest.approx(float(by_hand.mean()))
    p, w = (shares * truth).sum(0), (weights[:, None] * truth).sum(0)
    assert loss["focal"] == pytest.approx(float((w * (1 - p) ** 2 * -p.log()).sum() / w.sum()))
    main, auxiliary = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    criterion = SegmentationLoss("ce", weights)
    assert float(criterion((main, auxiliary), labels)[0]) == pytest.approx(
        float(criterion(main, labels)[0] + 0.5 * criterion(auxiliary, labels)[0])
    )


def test_class_weights_are_higher_for_rare_and_zero_for_absent_classes() -> None:
    weights, _ = class_weights("auto", [900, 100, 0])
    assert weights[1] > weights[0] > 0 == weights[2]
    assert float(weights[:2].mean()) == pytest.approx(1)
    assert class_weights("none", [900, 100, 0])[0].tolist() == [1, 1, 0]
    assert class_weights("1, 3 9", [900, 100, 0])[0].tolist() == [0.5, 1.5, 0]
    with pytest.raises(UsageError, match=r"each class of the data \(3\), found 2"):
        class_weights("1 2", [9, 9, 9])
    with pytest.raises(UsageError, match="CLASS_WEIGHTS='often': expected auto, none"):
        class_weights("often", [9, 9])
