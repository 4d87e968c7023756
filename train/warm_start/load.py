"""Load what a training starts from, by the reference and the SHA-256 that its settings name."""

from __future__ import annotations

from pathlib import Path

import torch

from config import Settings
from core.errors import AppError, UsageError, one_line
from core.files import safe_join
from core.i18n import tr
from core.safety.terminal import escape_line
from segmentation.archive.origin import require_origin
from segmentation.model import Model
from segmentation.model_file import load_model
from segmentation.networks.search import WeightsFile
from train.warm_start.initial import Initial, InitialEnsemble, InitialModel, InitialPackage, InitialWeights
from train.warm_start.packages import PREFIX, find_package
from utils.ensemble_file import is_ensemble, member_files, read_ensemble
from utils.identifiers import InvalidValue, RunId
from utils.lakefs_utils import LakeFS, LakePath
from utils.lineage import INIT
from utils.published_weights import is_published
from versioning.provenance.ancestors import LAKEFS

SHOWN = 300  # characters of a reference that is not checked


def load_initial(settings: Settings, lake: LakeFS) -> Initial | None:
    """Return what INIT names, after its SHA-256 was compared with INIT_SHA256, or the file of --pretrained; else None.

    Both are those of a run: `resolve_initial` has set them. Raises AppError for a file that is missing or was changed.
    """
    reference, sha256 = settings.init, settings.init_sha256
    if reference is None:
        return _named_weights(settings, lake) if settings.pretrained and settings.weights else None
    if sha256 is None:
        raise UsageError(tr("INIT={reference}: INIT_SHA256 is missing", reference=reference))
    package = find_package(reference) if reference.startswith(PREFIX) else None
    if package is not None and package.is_published:
        require_origin(package.file, package.file.read_bytes(), sha256)
        return InitialPackage(reference, sha256)
    known: dict[str, str] = {}
    if reference.startswith(LAKEFS):
        path = LakePath.parse_recorded(reference)
        try:
            file = lake.verified_file(path, sha256, settings.cache_dir)
            metadata = lake.commit_metadata(path.ref, path.repo)
        except AppError as error:
            raise type(error)(f"--init {path}: {one_line(error, 400)}") from error
        if metadata.get("model_sha256") == sha256:
            known = {"run_id": metadata.get("mlflow_run_id", ""), "data": metadata.get("lakefs_data_path", "")}
    else:
        file = package.file if package is not None else _existing(Path(reference))
    if is_ensemble(file):
        return _load_ensemble(reference, sha256, file, known)
    return initial_model(reference, sha256, load_model(file, sha256, torch.device("cpu")), known)


def _load_ensemble(reference: str, sha256: str, file: Path, known: dict[str, str]) -> InitialEnsemble:
    """Return the models of an ensemble, each after its SHA-256 was compared with that in ensemble.json."""
    require_origin(file, file.read_bytes(), sha256)
    ensemble, folder = read_ensemble(file), reference.rpartition("/")[0]
    members = [
        initial_model(
            f"{folder}/{member.file}", member.sha256, load_model(place, member.sha256, torch.device("cpu")), known
        )
        for member, place in member_files(file, ensemble)
    ]
    first, held_out = members[0], tuple(member.held_out for member in ensemble.members)
    known_of_first = first.run_id, first.data_path, first.start
    return InitialEnsemble(reference, sha256, *known_of_first, members=tuple(members), held_out=held_out)


def _named_weights(settings: Settings, lake: LakeFS) -> InitialWeights:
    """Return the file of published weights that WEIGHTS names. Raises AppError if it is missing."""
    reference = str(settings.weights)
    if reference.startswith(LAKEFS):
        path = LakePath.parse(reference)
        file = safe_join(lake.download(path, settings.cache_dir), path.path)
    else:
        file = Path(reference)
    found = WeightsFile.read(file, reference)
    return InitialWeights(reference, found.sha256, file=found)


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise AppError(tr("--init {file}: no such file", file=file))
    return file


def initial_model(reference: str, sha256: str, model: Model, known: dict[str, str]) -> InitialModel:
    """Return a loaded model as the start of a training; `known` is what its commit says, which older files do not."""
    run_id, data_path = model.lineage.get("run_id", ""), model.lineage.get("lakefs_data_path", "")
    return InitialModel(
        reference,
        sha256,
        known.get("run_id") or (run_id if RunId.accepts(run_id) else ""),
        known.get("data") or _data_path(data_path),
        "" if known else _start_of(model),
        architecture=model.architecture,
        weights={name: value.detach().cpu().contiguous().clone() for name, value in model.network.state_dict().items()},
        classes=model.classes.names,
        normalisation=model.normalisation,
        input_size=model.input_size,
        scale=model.scale,
        value_ranges=model.reading.value_ranges,
    )


def _start_of(model: Model) -> str:
    """Return what the file of a model says that it had started from; nothing for random and published weights.

    Of the model of a fold, that too: what it was trained on is recorded with its run only.
    """
    if fold := model.lineage.get("fold"):
        return escape_line(one_line(f"fold {fold} of run {model.lineage.get('run_id', '')[:8]}", SHOWN))
    stated = str(model.lineage.get(INIT, ""))
    return "" if is_published(stated) else escape_line(one_line(stated, SHOWN))


def _data_path(recorded: str) -> str:
    """Return the path of a data commit that a file states, or nothing for another text."""
    try:
        return str(LakePath.parse_recorded(recorded))
    except InvalidValue:
        return ""
