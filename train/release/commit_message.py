"""The report block for the Git commit, and the tag command."""

from __future__ import annotations

from segmentation.means import format_mean
from train.base_train import Validation
from train.tracking.result import Result


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


def describe_split(split: str, measured: Validation) -> str:
    """Return the metrics of a split for one line of a message, as tags of results have them."""
    mean = format_mean(measured.miou, measured.coverage, 3)
    return f"{split} accuracy {percent(measured.accuracy)}%, {split} mIoU {mean}"


def tag_command(result: Result, tag: str) -> str:
    """Return the command that tags this result in Git."""
    message = (
        f"{describe_split('val', result.val)}, "
        + (f"{describe_split('test', result.test)}, " if result.test is not None else "")
        + f"LakeFS {result.model_path.ref}, MLflow {result.run_id}"
    )
    return f'git tag -a "{tag}" -m "{message}"'
