"""The report of a training and what must not appear in records."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

import config
from core.i18n import set_language
from core.safety.urls import without_credentials
from train.base_train import Validation
from train.release.commit_message import percent, report_block, tag_command
from train.tracking.result import Result
from utils.lakefs_utils import LakePath


@settings(max_examples=200)
@given(st.floats(0, 1))
def test_percent_never_exceeds_the_measured_value(share: float) -> None:
    assert percent(share) <= share * 100 + 1e-6 and percent(share) >= int(share * 100)
    assert [percent(x) for x in (0.85, 0.57, 0.29, 0.999, 1.0, 0.0)] == [85, 57, 29, 99, 100, 0]


def test_report_block_matches_the_specification() -> None:
    commit = "a" * 64
    result = Result(
        "run",
        LakePath("repo", "b" * 64, "data/"),
        "1" * 64,
        LakePath("repo", commit, "models/model.pth"),
        "0" * 64,
        Validation(0.1, 0.8567, 0.7, {"road": 0.7, "car": None}),
        Validation(0.1, 0.8, 0.65, {"road": 0.7, "car": 0.6}),
    )
    assert report_block(result) == (
        "=== LakeFS 커밋 완료 ===\n"
        f"커밋 ID: {commit}\n"
        "=== Git 커밋 시 추가할 내용 ===\n"
        "LakeFS 업로드 정보:\n"
        f"- LakeFS 커밋: {commit}\n"
        "- 업로드된 파일: models/model.pth\n"
        "- 모델 성능: accuracy 85%"
    )


def test_tag_command_names_both_splits_and_absent_classes() -> None:
    set_language("en")
    val = Validation(0.1, 0.8567, 0.7, {"road": 0.7, "car": None})
    test = Validation(0.1, 0.8, 0.65, {"road": 0.7, "car": 0.6})
    path = LakePath("repo", "a" * 64, "models/model.pth")
    result = Result("run", LakePath("repo", "b" * 64, "data/"), "1" * 64, path, "0" * 64, val, test)
    assert tag_command(result, "v1.0-acc85") == (
        'git tag -a "v1.0-acc85" -m "val accuracy 85%, val mIoU 0.700 (1 of 2 classes), '
        f'test accuracy 80%, test mIoU 0.650, LakeFS {"a" * 64}, MLflow run"'
    )


def test_credentials_in_urls_are_never_recorded() -> None:
    assert without_credentials("https://me:pw@host:1/x") == "https://host:1/x"
    assert without_credentials("git@github.com:a/b.git") == "git@github.com:a/b.git"
    public = config.load_settings(mlflow_tracking_uri="http://me:pw@host:5000", lakefs_access_key_id="AKIA").public()
    assert public["mlflow_tracking_uri"] == "http://host:5000" and "AKIA" not in str(public) and "pw" not in str(public)
