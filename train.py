"""Check the data, commit it to lakeFS, train, commit the model, record the run in MLflow, print what goes into Git.

python train.py                                    # the whole job; an empty data/ gets a sample set
python train.py --check-only                       # only look at the data
python train.py --data-dir ../photos --epochs 30 --image-size 180 240
python train.py --smoke                            # two batches of everything, end to end
"""

from __future__ import annotations

import argparse
from pathlib import Path

from config import ROOT, Settings, load_settings
from utils.console import add_common_options, run_script, say, t


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options win over the environment and .env; those that are not given are None."""
    parser = argparse.ArgumentParser(
        prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help=t("이미지와 마스크 폴더 (기본 data)", "images and masks (default: data)"),
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
    from train.data_check import check_data, summary

    if options.check_only:
        print(summary(check_data(settings.data_dir, settings.seed, make_split=False)))
        return 0

    from train.mlflow_train import MlflowTrain
    from train.prepare_data import fill_if_empty
    from train.report import percent, report_block, tag_command
    from utils import git_utils, mlflow_utils
    from utils.files import write_atomically
    from utils.lakefs_utils import connect

    with connect(settings, create=True) as lake:
        client = mlflow_utils.connect(settings)
        fill_if_empty(settings, lake)
        data = check_data(settings.data_dir, settings.seed)
        print(summary(data), flush=True)
        training = MlflowTrain(
            settings, options.smoke, data=data, lake=lake, client=client, git=git_utils.read_facts(ROOT)
        )
        result = training.run()

    block = report_block(result)
    message_file = settings.model_path.parent / "git_commit_message.txt"
    write_atomically(message_file, (block + "\n").encode())
    print("\n" + block + "\n")
    print(tag_command(result, git_utils.next_result_tag(ROOT, percent(result.accuracy))))
    say(f"(커밋 메시지 파일: git commit -F {message_file})", f"(as a file: git commit -F {message_file})")
    return 0


if __name__ == "__main__":
    run_script(main)
