"""A model that is judged, measured on each image by those of its members that were not trained on it.

A single model is its only member. An ensemble of folds is trained on all images of train and val together, but each image
was held out by a member, whose prediction counts: the out-of-fold prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from dataset.classes import ClassMap
from dataset.decoding.options import ReadOptions
from registry.judging.overlap import JudgedImage
from segmentation.ensemble.joining import join_models
from segmentation.evaluation import EvaluationResult, measure
from segmentation.model import Model
from segmentation.model_file import load_model
from segmentation.preprocess import EVAL_BATCH
from utils.ensemble_file import Ensemble, member_files
from utils.lakefs_utils import LakeFS
from utils.lineage import Lineage
from versioning.provenance.training_images import TrainingImages, training_images


@dataclass(frozen=True)
class Contestant:
    """A model as it predicts in use (`model`), the file of it, and what it was trained on."""

    lineage: Lineage
    model: Model
    file: Path  # verified; that of an ensemble has its members beside it
    trained: TrainingImages
    device: torch.device
    _parts: dict[tuple[int, ...], Model] = field(default_factory=dict)  # members -> the model of them alone

    @classmethod
    def load(cls, lake: LakeFS, lineage: Lineage, device: torch.device, cache: Path, model: Model) -> Contestant:
        """Return the contestant of a model that was downloaded, with the images that it was trained on."""
        file = lake.verified_file(lineage.model_path, lineage.model_sha256, cache)
        held_out = tuple(frozenset(member.held_out) for member in model.members)
        return cls(lineage, model, file, training_images(lake, lineage, held_out, cache), device)

    @property
    def is_ensemble(self) -> bool:
        """Whether it has members, which were trained on different images."""
        return bool(self.model.members)

    def unseen_members(self, image: JudgedImage) -> tuple[int, ...]:
        """Return the members that were not trained on an image, nor started from a model that was."""
        count = max(len(self.model.members), 1)
        return tuple(member for member in range(count) if not self.trained.seen_by(image, member))

    def may_judge(self, images: Sequence[JudgedImage]) -> list[bool]:
        """Return for each image whether a member was not trained on it, so that its prediction says something."""
        return [bool(self.unseen_members(image)) for image in images]

    def predictor(self, image: JudgedImage) -> Model:
        """Return the model that predicts an image: the members that were not trained on it; all, where each was."""
        members = self.unseen_members(image)
        if len(members) in (0, max(len(self.model.members), 1)):
            return self.model
        if members not in self._parts:
            pairs = member_files(self.file, Ensemble(tuple(self.model.members[place] for place in members)))
            models = [load_model(file, member.sha256, self.device) for member, file in pairs]
            chosen = Ensemble(tuple(member for member, _ in pairs))
            self._parts[members] = models[0] if len(models) == 1 else join_models(self.file, chosen, models)
        return self._parts[members]

    def measure(
        self,
        images: Sequence[JudgedImage],
        classes: ClassMap,
        name: str,
        labels: ReadOptions | None = None,
        sizes: bool = False,
    ) -> EvaluationResult:
        """Measure each image by its predictor; the time per image is that of the whole model. See `evaluation.measure`."""
        places: dict[int, list[int]] = {}
        predictors = [self.predictor(image) for image in images]
        for place, model in enumerate(predictors):
            places.setdefault(id(model), []).append(place)
        parts = [
            measure(predictors[own[0]], [images[p].item for p in own], classes, self.device, name, labels, sizes)
            for own in places.values()
        ]
        joined = _join(parts, [place for own in places.values() for place in own])
        if id(self.model) in places:
            return joined
        first = [image.item for image in images[:EVAL_BATCH]]
        timed = measure(self.model, first, classes, self.device, name, labels)
        return replace(joined, milliseconds=timed.milliseconds)


def _join(parts: Sequence[EvaluationResult], places: Sequence[int]) -> EvaluationResult:
    """Return the results of parts as one; `places` are those of their images in it, in the order of the parts."""
    order = np.argsort(places)
    images, groups = ([name for part in parts for name in getattr(part, key)] for key in ("images", "groups"))
    by_size = [part.by_size for part in parts if part.by_size is not None]
    return replace(
        parts[0],
        images=tuple(images[place] for place in order),
        groups=tuple(groups[place] for place in order),
        counts=np.concatenate([part.counts for part in parts])[order],
        by_size=np.concatenate(by_size)[order] if by_size else None,
    )
