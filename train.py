"""Check the data, commit it to lakeFS, train, commit the model, record the run in MLflow, print what goes into Git.

python train.py                                    # the whole job; an empty data/ gets a sample set
python train.py --check-only                       # only look at the data
python train.py --data-dir ../photos --epochs 30 --image-size 180 240
python train.py --smoke                            # two batches of everything, end to end
python train.py --data-ref lock                    # the data of lakefs.lock, whatever lies in data/
python train.py --experiment-branch wider          # leaves the result on that branch of lakeFS
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from config import ROOT, Settings, load_settings
from utils.console import add_common_options, run_script, say, t

if TYPE_CHECKING:
    from train.dataset import DataSet
    from train.mlflow_train import Result
    from utils.lakefs_utils import LakeFS, LakePath


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options win over the environment and .env; those that are not given are None."""
    parser = argparse.ArgumentParser(
        prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help=t("이미지와 마스크 폴더 (기본 data)", "images and masks (default: data)"),
    )
    source.add_argument(
        "--data-ref",
        metavar="REF",
        help=t(
            "lakeFS 의 이 데이터로 학습 (lakefs://저장소/버전/data/, 버전, lock)",
            "data of lakeFS (lakefs://REPO/REF/data/, REF or lock)",
        ),
    )
    parser.add_argument(
        "--experiment-branch",
        metavar="NAME",
        help=t("결과를 이 lakeFS 브랜치에 둡니다", "leave the result on this branch of lakeFS"),
    )
    parser.add_argument("--epochs", type=int, help=t("에폭 수 (기본 10)", "passes over the data (default: 10)"))
    parser.add_argument("--batch-size", type=int, help=t("배치 크기 (기본 16)", "pictures a step (default: 16)"))
    parser.add_argument("--lr", type=float, help=t("최대 학습률 (기본 0.001)", "peak learning rate (default: 0.001)"))
    parser.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help=t("입력 크기 (기본: 데이터에서)", "input size in pixels (default: from the data)"),
    )
    parser.add_argument("--model", help=t("모델 이름 (기본 compact_unet)", "network (default: compact_unet)"))
    parser.add_argument("--seed", type=int, help=t("난수 시드 (기본 0)", "random seed (default: 0)"))
    parser.add_argument(
        "--device", help=t("auto, cpu, cuda, mps (기본 auto)", "auto, cpu, cuda or mps (default: auto)")
    )
    parser.add_argument(
        "--workers", type=int, help=t("사진을 읽는 프로세스 수 (기본 0)", "processes that read pictures (default: 0)")
    )
    parser.add_argument("--check-only", action="store_true", help=t("데이터만 검사합니다", "only check the data"))
    parser.add_argument(
        "--smoke",
        action="store_true",
        help=t("두 배치만으로 전체 과정을 시험합니다", "two batches of everything, end to end"),
    )
    add_common_options(parser)
    return parser.parse_args(arguments)


def settings_from(options: argparse.Namespace) -> Settings:
    return load_settings(
        data_dir=options.data_dir,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.lr,
        image_size=tuple(options.image_size) if options.image_size else None,
        model=options.model,
        seed=options.seed,
        device=options.device,
        num_workers=options.workers,
    )


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    options = parse(arguments)
    settings = settings_from(options)
    if options.check_only:
        return check_only(settings, options.data_ref)

    from train.mlflow_train import MlflowTrain
    from utils import git_utils, mlflow_utils
    from utils.lakefs_utils import connect

    with connect(settings, create=True) as lake:
        client = mlflow_utils.connect(settings)
        pinned, data = checked_data(settings, lake, options.data_ref)
        if options.experiment_branch:
            lake.start_experiment(options.experiment_branch)
        training = MlflowTrain(
            settings,
            options.smoke,
            data=data,
            lake=lake,
            client=client,
            git=git_utils.read_facts(ROOT),
            pinned=pinned,
            target_branch=settings.lakefs_branch if options.experiment_branch else None,
        )
        result = training.run()
    report(settings, result, options.smoke)
    return 0


def check_only(settings: Settings, data_ref: str | None) -> int:
    """Print what there is; makes nothing, and needs no server unless the data lie there."""
    from train.data_check import check_data, summary

    if data_ref is None:
        print(summary(check_data(settings.data_dir, settings.seed, make_split=False)))
        return 0
    from utils.lakefs_utils import connect

    with connect(settings) as lake:
        checked_data(settings, lake, data_ref)
    return 0


def checked_data(settings: Settings, lake: LakeFS, data_ref: str | None) -> tuple[LakePath | None, DataSet]:
    """The data to train on: those of a commit, with its path, or those of the data folder."""
    from train.data_check import check_data, summary
    from train.prepare_data import cache_folder, fill_if_empty
    from utils.files import inside
    from utils.versions import find_data, require_whole

    pinned = find_data(lake, data_ref) if data_ref else None
    if pinned is None:
        require_whole(settings.data_dir)
        fill_if_empty(settings, lake)
        data = check_data(settings.data_dir, settings.seed)
    else:  # no split is written into the cache: it is that of the commit, or comes from the seed
        folder = inside(lake.download(pinned, cache_folder(settings)), pinned.path)
        data = check_data(folder, settings.seed, make_split=False)
    print(summary(data), flush=True)
    return pinned, data


def report(settings: Settings, result: Result, smoke: bool) -> None:
    """Write lakefs.lock and the message for Git, print the report and the tag command."""
    from train.report import percent, report_block, tag_command
    from utils import git_utils
    from utils.files import write_atomically
    from utils.lock import Lock, write_lock

    block = report_block(result)
    message_file = settings.model_path.parent / "git_commit_message.txt"
    write_atomically(message_file, (block + "\n").encode())
    print("\n" + block + "\n")
    print(tag_command(result, git_utils.next_result_tag(ROOT, percent(result.accuracy))))
    if smoke:  # the figures of two batches are nothing to come back to
        say(f"(커밋 메시지 파일: git commit -F {message_file})", f"(as a file: git commit -F {message_file})")
        return
    lock = write_lock(
        ROOT,
        Lock(result.data_path, result.data_manifest_sha256, result.model_path, result.model_sha256, result.run_id),
    )
    say(
        f"(함께 커밋: git add {lock.name} && git commit -F {message_file})",
        f"(to commit with it: git add {lock.name} && git commit -F {message_file})",
    )


if __name__ == "__main__":
    run_script(main)
