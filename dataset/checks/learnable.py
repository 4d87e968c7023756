"""Check before the training that there is something to learn: classes, labels, and what is ignored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from core.i18n import tr
from dataset.classes import ClassMap, abbreviate
from dataset.faults import DataWarning, Fault

UNLABELLED_CLASS, BACKGROUND_IGNORED, SPARSE_LABELS = "unlabelled-class", "background-ignored", "sparse-labels"
SPARSE_SHARE = 0.05  # of labelled pixels in train, below which most crops would have none


def check_learnable(
    counts: Mapping[str, Counter[int]], classes: ClassMap, class_file: str
) -> Iterator[Fault | DataWarning]:
    """Yield findings about `counts`, split -> mask value -> pixels: faults where nothing can be learned."""
    if classes.num_classes == 1:
        found = tr("1: {name}", name=classes.names[0])
        if classes.ignore_ids:
            found += tr(" (ignored: {ids})", ids=abbreviate(classes.ignore_ids))
        yield Fault(class_file, tr("at least two classes that are not ignored, such as background"), found)
        return
    train = counts.get("train", Counter())
    labelled = [name for value, name in zip(classes.ids, classes.names, strict=True) if train[value]]
    if train and len(labelled) < 2:
        found = abbreviate(labelled) or tr("none")
        yield Fault("train", tr("labelled pixels of at least two classes in the training split"), found)
        return
    total = sum(counts.values(), Counter[int]())
    if not total:
        return  # no mask could be read
    absent = [name for value, name in zip(classes.ids, classes.names, strict=True) if not total[value]]
    if absent:
        text = tr("classes without a labelled pixel in any split: {names}", names=abbreviate(absent))
        yield DataWarning(UNLABELLED_CLASS, text)
    yield from _check_ignored(train, total, classes)


def _check_ignored(train: Counter[int], total: Counter[int], classes: ClassMap) -> Iterator[DataWarning]:
    if 0 in classes.ignore_ids and total[0]:
        text = tr(
            "0, usually the background, is ignored ({share:.1%} of the pixels): the model will see another class there",
            share=total[0] / total.total(),
        )
        yield DataWarning(BACKGROUND_IGNORED, text)
    ignored = sum(train[value] for value in classes.ignore_ids)
    if ignored and ignored / train.total() > 1 - SPARSE_SHARE:
        text = tr(
            "{share:.1%} of the pixels of train are ignored: most training steps would see no label, "
            "so crops are placed where labels are",
            share=ignored / train.total(),
        )
        yield DataWarning(SPARSE_LABELS, text)
