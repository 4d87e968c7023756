"""The report of a training and what must not appear in records."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import config
from core.i18n import set_language
from core.safety.urls import without_credentials
from train.base_train import Validation
from train.release.commit_message import SUBJECT_LIMIT, commit_message, percent, report_block, tag_command
from train.tracking.result import Result
from utils.lakefs_utils import LakePath


@settings(max_examples=200)
@given(st.floats(0, 1))
def test_percent_never_exceeds_the_measured_value(share: float) -> None:
    assert percent(share) <= share * 100 + 1e-6 and percent(share) >= int(share * 100)
    assert [percent(x) for x in (0.85, 0.57, 0.29, 0.999, 1.0, 0.0)] == [85, 57, 29, 99, 100, 0]


def make_result(commit: str, val: Validation) -> Result:
    test = Validation(0.1, 0.8, 0.65, {"road": 0.7, "car": 0.6})
    data, model = LakePath("repo", "b" * 64, "data/"), LakePath("repo", commit, "models/model.pth")
    return Result("run", data, "1" * 64, model, "0" * 64, val, test)


def test_report_block_matches_the_specification() -> None:
    commit = "a" * 64
    result = make_result(commit, Validation(0.1, 0.8567, 0.7, {"road": 0.7, "car": None}))
    assert report_block(result) == (
        "=== LakeFS 커밋 완료 ===\n"
        f"커밋 ID: {commit}\n"
        "=== Git 커밋 시 추가할 내용 ===\n"
        "LakeFS 업로드 정보:\n"
        f"- LakeFS 커밋: {commit}\n"
        "- 업로드된 파일: models/model.pth\n"
        "- 모델 성능: accuracy 85%"
    )


@pytest.mark.parametrize("language", ["en", "ko"])
def test_commit_message_has_a_short_subject_before_the_block(language: str) -> None:
    set_language(language)
    result = make_result("a" * 64, Validation(0.1, 0.2467, 0.88841, {"road": 0.9, "car": 0.9}))
    subject, empty, block = commit_message(result, "v1.1-acc24").split("\n", 2)
    assert (subject, empty) == ("model: v1.1-acc24, val mIoU 0.8884", "")
    assert block == report_block(result) + "\n"


def test_subject_names_absent_classes_and_leaves_out_a_tag_that_is_too_long() -> None:
    result = make_result("a" * 64, Validation(0.1, 0.2467, 0.7, {"road": 0.7, "car": None}))
    assert commit_message(result, "v1.0-acc24").startswith("model: v1.0-acc24, val mIoU 0.7000 (1 of 2 classes)\n\n")
    long = commit_message(result, "x" * SUBJECT_LIMIT).split("\n", 1)[0]
    assert long == "model: val mIoU 0.7000 (1 of 2 classes)"


def test_tag_command_names_both_splits_and_absent_classes() -> None:
    set_language("en")
    val = Validation(0.1, 0.8567, 0.7, {"road": 0.7, "car": None})
    test = Validation(0.1, 0.8, 0.65, {"road": 0.7, "car": 0.6})
    path = LakePath("repo", "a" * 64, "models/model.pth")
    result = Result("run", LakePath("repo", "b" * 64, "data/"), "1" * 64, path, "0" * 64, val, test)
    assert tag_command(result, "v1.0-acc85") == (
        'git tag -a "v1.0-acc85" -m "val accuracy 85%, val mIoU 0.7000 (1 of 2 classes), '
        f'test accuracy 80%, test mIoU 0.6500, LakeFS {"a" * 64}, MLflow run"'
    )


def test_credentials_in_urls_are_never_recorded() -> None:
    assert without_credentials("https://me:pw@host:1/x") == "https://host:1/x"
    assert without_credentials("git@github.com:a/b.git") == "git@github.com:a/b.git"
    public = config.load_settings(mlflow_tracking_uri="http://me:pw@host:5000", lakefs_access_key_id="AKIA").public()
    assert public["mlflow_tracking_uri"] == "http://host:5000" and "AKIA" not in str(public) and "pw" not in str(public)
