"""Segmentation metrics, losses and class weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from config import LOSSES
from core.errors import UsageError
from dataset.classes import IGNORE_INDEX
from segmentation import losses
from segmentation.losses import SegmentationLoss, build_loss, class_weights, lovasz
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


@pytest.mark.parametrize("name", LOSSES)
def test_loss_ignores_unlabelled_pixels_and_is_zero_for_the_truth(name: str) -> None:
    criterion = SegmentationLoss(name, torch.tensor([1.0, 2.0, 0.5]), torch.tensor([0.0, 1.0, -1.0]))
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
    assert loss["ce+lovasz"] == pytest.approx(loss["ce"] + loss["lovasz"])
    adjustment = torch.tensor([0.3, -1.0, 0.7])
    for name in LOSSES:
        adjusted = SegmentationLoss(name, weights, adjustment)(logits, labels)[0]
        shifted = SegmentationLoss(name, weights)(logits + adjustment[:, None, None], labels)[0]
        assert float(adjusted) == pytest.approx(float(shifted))
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


def jaccard_of_mistakes(mistakes: set[int], truth: set[int]) -> float:
    """Return 1 - IoU of a class whose prediction differs from `truth` in these pixels."""
    return len(mistakes) / len(truth | mistakes) if truth | mistakes else 0.0


def test_lovasz_is_the_extension_of_the_jaccard_index() -> None:
    """By its definition: errors in falling order, each times what its pixel adds to 1 - IoU (Berman et al., eq. 9)."""
    generator = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(1, 3, 4, 5, generator=generator), torch.randint(0, 2, (1, 4, 5), generator=generator)
    shares, expected = logits.softmax(1)[0].flatten(1).tolist(), []
    for value in range(2):  # the third class does not occur
        truth = {pixel for pixel, label in enumerate(labels.flatten().tolist()) if label == value}
        errors = [1 - share if pixel in truth else share for pixel, share in enumerate(shares[value])]
        order, total = sorted(range(20), key=lambda pixel: -errors[pixel]), 0.0
        for place, pixel in enumerate(order):
            more, less = (jaccard_of_mistakes(set(order[:count]), truth) for count in (place + 1, place))
            total += errors[pixel] * (more - less)
        expected.append(total)
    assert float(lovasz(logits, labels)) == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_lovasz_of_decided_predictions_is_one_minus_iou(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(2)
    predicted, labels = (torch.randint(0, 3, (2, 30, 40), generator=generator) for _ in range(2))
    logits = torch.nn.functional.one_hot(predicted, 3).permute(0, 3, 1, 2) * 60.0
    matrix = ConfusionMatrix(3)
    matrix.update(predicted, labels.to(torch.uint8))
    assert float(lovasz(logits, labels)) == pytest.approx(1 - matrix.miou, abs=1e-5)
    monkeypatch.setattr(losses, "LOVASZ_PIXELS", 240)  # of 2,400: every fifth
    assert float(lovasz(logits, labels)) == pytest.approx(1 - matrix.miou, abs=0.1)


def test_the_network_learns_logits_without_a_part_of_the_automatic_weights() -> None:
    criterion, _ = build_loss("ce", "auto", [900, 100, 0])
    weights = criterion.table[:3]
    assert criterion.adjustment.tolist() == pytest.approx([*(losses.TAKEN_BACK * weights[:2].log()).tolist(), 0])
    for wanted in ("none", "1 3 9"):
        assert not build_loss("ce", wanted, [900, 100, 0])[0].adjustment.any()


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
