"""Wrong command lines: one line on standard error, exit code 2, and nothing is created."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.project import SOURCE, Project, make_project

# Script -> command line -> what its error says. Blanks separate the words; "~" stands for a blank in a word, "''" for none.
WRONG: dict[str, dict[str, str]] = {
    "train.py": {
        "--epoch 5": "unknown option --epoch: did you mean --epochs?",
        "--epo 5": "did you mean --epochs?",
        "--Epochs 5": "did you mean --epochs?",
        "-epochs 5": "did you mean --epochs?",
        "--epoch=5": "unknown option --epoch: did you mean --epochs?",
        "--batch_size 4": "did you mean --batch-size?",
        "--batch 4": "did you mean --batch-size?",
        "--learning-rate 0.1": "did you mean --lr?",
        "--num-workers 2": "did you mean --workers?",
        "--data ../photos": "unknown option --data",
        "--lakefs-branch main": "set LAKEFS_BRANCH in the environment or in .env",
        "--app_lang ko": "set APP_LANG in the environment or in .env",
        "--frobnicate": "unknown option --frobnicate (see train.py --help)",
        "-x": "unknown option -x",
        "data/": "did you mean --data-dir data/?",
        "my~photos": "did you mean --data-dir 'my photos'?",
        "smoke": "did you mean --smoke?",
        "epochs 5": "did you mean --epochs 5?",
        "--epochs 0": "--epochs 0: expected at least 1",
        "--epochs -5": "--epochs -5: expected at least 1",
        "--epochs five": "--epochs five: expected a whole number",
        "--epochs 1.5": "--epochs 1.5: expected a whole number",
        "--epochs": "--epochs: expected one argument",
        "--epochs ''": "found an empty text",
        "--lr 0": "--lr 0: expected a number greater than 0",
        "--lr nan": "--lr nan: expected a number greater than 0",
        "--lr 1,5": "--lr 1,5: expected a number",
        "--image-size 180": "--image-size: expected 2 arguments",
        "--image-size 180x240": "--image-size: expected 2 arguments",
        "--image-size 8 8": "--image-size 8 8: expected sides of 16 to 8192 pixels",
        "--image-size a b": "--image-size a b: expected height and width",
        "--crop-size 900 900 --image-size 64 64": "--crop-size 900 900: larger than the input size 64 64",
        "--loss dise": "--loss dise: expected one of ce, dice",
        "--precision half": "--precision half: expected one of auto",
        "--ema 2": "--ema 2: expected a number from 0 to 1",
        "--seed -1": "--seed -1: expected at least 0",
        "--split-group (": "--split-group '(': expected a regular expression",
        "--split-group patient": "expected a regular expression with a group",
        "--data-dir ''": "found an empty text",
        "--data-dir nowhere": "nowhere: no such directory",
        "--check-only --data-dir nowhere": "nowhere: no such directory",
        "--device tpu": "--device tpu: expected one of auto, cpu, cuda, mps",
        "--device mps": "--device mps: not on this machine",
        "--class-weights often": "--class-weights often: expected auto, none",
        "--class-weights 0,0": "--class-weights 0,0: expected auto, none",
        "--model unet": "unknown model 'unet'",
        "--pretrained": "no weights are published for 'compact_fpn'",
        "--tolerance 0.1": "--tolerance: only with --reproduce",
        "--trust-patch": "--trust-patch: only with --reproduce",
        "--reproduce abc --tolerance -1": "--tolerance -1: expected at least 0",
        "--reproduce abc --epochs 5": "--epochs cannot be used with --reproduce",
        "--reproduce abc --data-dir data": "--data-dir cannot be used with --reproduce",
        "--reproduce": "--reproduce: expected one argument",
        "--json": "--json: only with --check-only",
        "--check-only --git-tag": "--git-tag cannot be used with --check-only",
        "--check-only --pretrained": "--pretrained cannot be used with --check-only",
        "--check-only --epochs 5": "--epochs cannot be used with --check-only",
        "--check-only --crop-size 900 900 --image-size 64 64": "--crop-size cannot be used with --check-only",
        "--overfit 2 --validate-every 5": "--validate-every cannot be used with --overfit",
        "--audit-labels --validate-every 5": "--validate-every cannot be used with --audit-labels",
        "--audit-labels --patience 5": "--patience cannot be used with --audit-labels",
        "--check-only --sample": "--sample cannot be used with --check-only",
        "--check-only --overfit 2": "--overfit cannot be used with --check-only",
        "--overfit 0": "--overfit 0: expected a whole number of at least 1",
        "--overfit 2 --git-commit": "--git-commit cannot be used with --overfit",
        "--overfit 2 --epochs 5": "--epochs cannot be used with --overfit",
        "--audit-labels --smoke": "--smoke cannot be used with --audit-labels",
        "--resume last --data-dir data": "--data-dir cannot be used with --resume",
        "--resume last --sample": "--sample cannot be used with --resume",
        "--resume last": "--resume last: no checkpoint",
        "--sample --dataset voc2012": "cannot be used with",
        "--data-ref main --data-dir data": "cannot be used with",
        "--data-ref main --replace": "--replace cannot be used with --data-ref",
        "--smoke --git-tag": "--git-tag cannot be used with --smoke",
        "--epochs 5 --max-seconds 60": "--max-seconds cannot be used with --epochs",
        "--dataset coco": "--dataset coco: expected one of oxford-iiit-pet, voc2012",
        "--init-env --epochs 5": "--epochs cannot be used with --init-env",
    },
    "register_model.py": {
        "list": "unexpected argument: list: did you mean --list?",
        "rollback 3": "did you mean --rollback 3?",
        "5a5a5a5a": "unexpected argument: 5a5a5a5a",
        "--threshhold 0.5": "did you mean --threshold?",
        "--run 12": "did you mean --run-id?",
        "--lis": "did you mean --list?",
        "--register-split val": "set REGISTER_SPLIT in the environment or in .env",
        "--threshold 2": "--threshold 2: expected a number from 0 to 1",
        "--threshold high": "--threshold high: expected a number",
        "--min-gain -0.1": "--min-gain -0.1: expected a number from 0 to 1",
        "--metric val_loss": "--metric val_loss: expected …miou or …accuracy",
        "--force": "--force: expected one argument",
        "--force ''": "--force '': expected a reason",
        "--force x --threshold 0.5": "cannot be used with",
        "--list --force x --threshold 0.5": "--force cannot be used with --list",
        "--list --manual": "--manual cannot be used with --list",
        "--list --rollback": "--rollback cannot be used with --list",
        "--list --run-id a": "--run-id cannot be used with --list",
        "--json": "--json: only with --list",
        "--output x": "--output: only with --compare",
        "--compare 1": "--compare takes A and B",
        "--compare 1 2 3": "--compare takes A and B",
        "--compare 1 2 --threshold 0": "--threshold cannot be used with --compare",
        "--rollback 3 --manual": "--rollback 3 cannot be used with --manual",
        "--rollback --keep-branch": "--keep-branch cannot be used with --rollback",
        "--manual --run-id x": "--run-id cannot be used with --manual",
        "--make-signing-key": "--make-signing-key: expected one argument",
        "--make-signing-key k --list": "--make-signing-key cannot be used with --list",
    },
    "infer.py": {
        "photo.jpg": "did you mean --input photo.jpg?",
        "a~b.jpg c.jpg": "did you mean --input 'a b.jpg' c.jpg?",
        "serve": "did you mean --serve?",
        "--inptu photo.jpg": "did you mean --input?",
        "--outptu x": "did you mean --output?",
        "--cam 0": "did you mean --camera?",
        "--epochs 5": "unknown option --epochs",
        "--input": "--input: expected at least one argument",
        "--input nowhere.jpg": "nowhere.jpg: no such file or directory",
        "--input config.py": "--input config.py: not an image file",
        "--input ''": "--input '': expected a path",
        "--output ''": "--output '': expected a path",
        "--output /proc/x": "--output /proc/x: cannot be written",
        "--output data": "inside the data directory",
        "--split holdout": "--split holdout: expected one of train, val, test",
        "--input x.png --split val": "cannot be used with",
        "--camera 0 --input x.png": "--input cannot be used with --camera",
        "--camera 0 --seconds 0": "--seconds 0: expected a number greater than 0",
        "--seconds 5": "--seconds: only with --camera",
        "--port 80": "--port: only with --serve",
        "--serve --port 70000": "--port 70000: expected 0 to 65535",
        "--serve --output x": "--output cannot be used with --serve",
        "--serve --resume": "--resume cannot be used with --serve",
        "--export onnx --tta": "--tta cannot be used with --export",
        "--export onnx --device cpu": "--device cannot be used with --export",
        "--export coreml": "--export coreml: expected one of onnx, torchscript",
        "--serve --export onnx": "--serve cannot be used with --export",
        "--tile 100": "--tile 100: expected auto, or 128 to 65536",
        "--tile big": "--tile big: expected auto, or 128 to 65536",
        "--extra masks": "--extra masks: expected one of probabilities",
        "--select 3": "--select: only with --input",
        "--input x.png --select 0": "--select 0: expected a whole number of at least 1",
        "--run-id a --model b": "cannot be used with",
        "--engine tensorrt": "--engine tensorrt: expected one of torch, onnxruntime",
        "--engine onnxruntime --require-signature k.pub": "--require-signature cannot be used with --engine onnxruntime",
        "--require-signature k.pub": "k.pub: no such file",
        "--device mps": "--device mps: not on this machine",
    },
    "lake.py": {
        "": "the following arguments are required: COMMAND",
        "pus": "unknown command 'pus': did you mean push?",
        "comit": "unknown command 'comit': available: push, pull",  # codespell:ignore
        "--json": "COMMAND",
        "status data": "did you mean --data-dir data?",
        "status --force": "unknown option --force (see lake.py status --help)",
        "log main extra": "unexpected argument: extra (see lake.py log --help)",
        "log -n 0": "-n 0: expected a whole number of at least 1",
        "log -n many": "-n many: expected a whole number of at least 1",
        "log --jsn": "did you mean --json?",
        "diff main": "the following arguments are required: RIGHT",
        "pull": "pull: name a version REF",
        "pull main --prefer local": "--prefer: only with --merge",
        "pull --merge --force": "--force cannot be used with --merge",
        "pull --merge --prefer mine": "--prefer mine: expected one of local, branch",
        "push --keep-remote --replace": "--keep-remote",
        "push --to lakefs": "--to lakefs: expected http(s)://HOST[:PORT]",
        "push --to http://127.0.0.1:9 -m x": "--message cannot be used with --to",
        "push --mesage x": "did you mean --message?",
        "push --data-dir nowhere": "nowhere: no such directory",
        "tag list": "did you mean lake.py tag?",
        "tag -d": "--delete: only with NAME",
        "tag -d a b": "REF cannot be used with --delete",
        "tag a --json": "--json cannot be used with NAME",
        "trace": "the following arguments are required: WHAT",
        "import": "the following arguments are required: s3://BUCKET/PREFIX",
        "revert": "the following arguments are required: COMMIT",
        "setup now": "unexpected argument: now",
    },
}


def words_of(line: str) -> list[str]:
    return ["" if word == "''" else word.replace("~", " ") for word in line.split()]


def listing(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("wrong") / "project", images=0, git=False)


def test_there_are_more_than_a_hundred() -> None:
    assert sum(map(len, WRONG.values())) > 100


@pytest.mark.parametrize("script", WRONG)
def test_wrong_command_line_is_one_line_and_creates_nothing(project: Project, script: str) -> None:
    before = listing(project.folder.parent)
    done = subprocess.run(
        [sys.executable, str(SOURCE / "tests/support/command_lines.py"), str(project.folder / script)],
        input=json.dumps([words_of(line) for line in WRONG[script]]),
        cwd=project.folder,
        env=project.environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    wrong = []
    for (line, text), (code, out, err) in zip(WRONG[script].items(), json.loads(done.stdout), strict=True):
        if code != 2 or out or err.count("\n") != 1 or not err.startswith("error: ") or text not in err:
            wrong.append(f"{script} {line}\n  expected: {text}\n  found: {code} {out}{err}")
    assert not wrong, "\n".join(wrong)
    assert listing(project.folder.parent) == before
