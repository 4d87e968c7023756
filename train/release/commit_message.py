"""The message for the Git commit, with the report block in it, and the tag command."""

from __future__ import annotations

from segmentation.means import english_mean, format_mean
from train.base_train import Validation
from train.tracking.result import Result

SUBJECT_LIMIT = 72  # characters of the first line, which `git log --oneline` shows


def percent(fraction: float) -> int:
    """Return whole percent, rounded down (0.857 -> 85), so that a report never claims more than was measured."""
    return int(fraction * 100 + 1e-9)


def report_block(result: Result) -> str:
    """Return the block for the Git commit. Its form is fixed, and it is Korean in every language of the console."""
    return "\n".join(
        [
            "=== LakeFS 커밋 완료 ===",
            f"커밋 ID: {result.model_path.ref}",
            "=== Git 커밋 시 추가할 내용 ===",
            "LakeFS 업로드 정보:",
            f"- LakeFS 커밋: {result.model_path.ref}",
            f"- 업로드된 파일: {result.model_path.path}",
            f"- 모델 성능: accuracy {percent(result.val.accuracy)}%",
        ]
    )


def commit_message(result: Result, tag: str) -> str:
    """Return the message for the Git commit of a result: a short subject, an empty line, and the report block."""
    return f"{subject(result, tag)}\n\n{report_block(result)}\n"


def subject(result: Result, tag: str) -> str:
    """Return 'model: v1.1-acc24, val mIoU 0.8884', without a tag that makes it too long. In every language the same."""
    val = result.val
    figure = f"{result.split} mIoU {english_mean(val.miou, val.coverage)}"
    text = f"model: {tag}, {figure}"
    return text if len(text) <= SUBJECT_LIMIT else f"model: {figure}"


def describe_split(split: str, measured: Validation) -> str:
    """Return the metrics of a split for one line of a message, as tags of results have them."""
    mean = format_mean(measured.miou, measured.coverage)
    return f"{split} accuracy {percent(measured.accuracy)}%, {split} mIoU {mean}"


def tag_command(result: Result, tag: str) -> str:
    """Return the command that tags this result in Git."""
    message = (
        f"{describe_split(result.split, result.val)}, "
        + (f"{describe_split('test', result.test)}, " if result.test is not None else "")
        + f"LakeFS {result.model_path.ref}, MLflow {result.run_id}"
    )
    return f'git tag -a "{tag}" -m "{message}"'
