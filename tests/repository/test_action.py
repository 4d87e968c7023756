"""action/: the script with the event of a pull request, against a local copy of GitHub's API."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from action import pull_request
from core.command_line.version import VERSION
from tests.support.project import SOURCE

EVENT = Path(__file__).with_name("pull_request.json")
TOKEN = "ghs_secret-of-the-test"
RESULT = {"mode": "train", "verdict": "passed", "reason": ""}
PREDICTIONS = {"split": "test", "miou": 0.5, "accuracy": 0.75, "iou": {"sky": 0.25, "road": None}}


class GitHub(HTTPServer):
    """Comments of one pull request; `status` other than 200 refuses everything."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.comments: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str, str]] = []
        self.status = 200


class Handler(BaseHTTPRequestHandler):
    def answer(self) -> None:
        server = self.server
        assert isinstance(server, GitHub)
        content = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "null")
        server.requests.append((self.command, self.path, self.headers["Authorization"]))
        found: Any = server.comments
        if self.command == "POST":
            server.comments.append({"id": 40 + len(server.comments), "user": {"type": "Bot"}, **content})
        if self.command == "PATCH":
            (found,) = [entry for entry in server.comments if self.path.endswith(f"/{entry['id']}")]
            found |= content
        self.send_response(server.status)
        self.end_headers()
        self.wfile.write(json.dumps(found).encode())

    do_GET = do_POST = do_PATCH = answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def github() -> Iterator[GitHub]:
    with GitHub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def environment(github: GitHub, tmp_path: Path) -> dict[str, str]:
    write(tmp_path, RESULT, PREDICTIONS)
    return {
        "ACTION_OUTPUT": str(tmp_path),
        "ACTION_TOKEN": TOKEN,
        "ACTION_IMAGES_URL": "https://github.com/team/seg/actions/runs/1/artifacts/2",
        "GITHUB_API_URL": f"http://127.0.0.1:{github.server_port}",
        "GITHUB_EVENT_PATH": str(EVENT),
        "GITHUB_REPOSITORY": "team/seg",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }


def write(folder: Path, result: object, predictions: object) -> None:
    (folder / "predictions").mkdir(exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "predictions/predictions.json").write_text(json.dumps(predictions))


def test_result_is_one_comment_that_later_pushes_replace(github: GitHub, environment: dict[str, str]) -> None:
    github.comments.append({"id": 1, "user": {"type": "User"}, "body": f"{pull_request.MARKER} of somebody else"})
    assert pull_request.main(["post"], environment) == 0
    assert pull_request.main(["post"], environment) == 0
    assert [method for method, _, _ in github.requests] == ["GET", "POST", "GET", "PATCH"]
    assert github.comments[0]["body"].endswith("somebody else") and len(github.comments) == 2
    text = github.comments[1]["body"]
    for words in ("The gate passed", "test split: mIoU 0.5000, accuracy 0.7500", "| sky | 0.2500 |", "| road | none |"):
        assert words in text
    assert "/artifacts/2)" in text and text in Path(environment["GITHUB_STEP_SUMMARY"]).read_text()


@pytest.mark.parametrize("repo", [{"full_name": "somebody/seg"}, None])
def test_fork_gets_the_summary_only(
    github: GitHub, environment: dict[str, str], tmp_path: Path, repo: object, capsys: pytest.CaptureFixture[str]
) -> None:
    event = json.loads(EVENT.read_text())
    event["pull_request"]["head"]["repo"] = repo
    (tmp_path / "event.json").write_text(json.dumps(event))
    assert pull_request.main(["post"], environment | {"GITHUB_EVENT_PATH": str(tmp_path / "event.json")}) == 0
    assert github.requests == [] and "fork" in capsys.readouterr().out
    assert "The gate passed" in Path(environment["GITHUB_STEP_SUMMARY"]).read_text()


def test_refusal_of_github_is_a_warning_without_the_token(
    github: GitHub, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    github.status = 403
    assert pull_request.main(["post"], environment) == 0
    printed = capsys.readouterr()
    assert "::warning::GitHub refused the comment (403)" in printed.out and "pull-requests: write" in printed.out
    assert TOKEN not in printed.out + printed.err


@pytest.mark.parametrize(("verdict", "code"), [("passed", 0), ("refused", 1), ("failed", 1)])
def test_exit_code_follows_the_gate(environment: dict[str, str], tmp_path: Path, verdict: str, code: int) -> None:
    write(tmp_path, RESULT | {"verdict": verdict, "reason": "below"}, {})
    assert pull_request.main(["post"], environment | {"ACTION_COMMENT": "false"}) == code


def test_names_of_a_pull_request_are_no_markup() -> None:
    hostile = ("<img src=x>", "a|b", "@team", "[x](https://evil.example)", "`code`", "line\n# head", "x" * 1000)
    text = pull_request.describe(RESULT, PREDICTIONS | {"iou": dict.fromkeys(hostile, 0.5)}, "javascript:alert(1)")
    assert "<img" not in text and "@team" not in text and "](https" not in text and "javascript" not in text
    assert "\n# head" not in text and r"a\|b" in text and len(text) < 2000


def test_scripts_run_without_tokens_and_without_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = (
        "import json, os, sys; open(f'{sys.argv[0]}.json', 'w').write(json.dumps([sys.argv[1:], dict(os.environ)]))\n"
    )
    finish = (
        "import pathlib; pathlib.Path(sys.argv[2]).mkdir(); open(sys.argv[2] + '/predictions.json', 'w').write('{}')\n"
    )
    for name, more in (("train.py", ""), ("register_model.py", "sys.exit(3)\n"), ("infer.py", finish)):
        (tmp_path / name).write_text(record + more)
    monkeypatch.chdir(tmp_path)
    secrets = {"ACTION_TOKEN": TOKEN, "GITHUB_TOKEN": TOKEN, "ACTIONS_RUNTIME_TOKEN": TOKEN}
    inputs = {"ACTION_ARGUMENTS": "--epochs 1 '$(touch made)' ';touch made'", "ACTION_OUTPUT": "out"}
    assert pull_request.main(["run"], secrets | inputs) == 0
    arguments, environment = json.loads((tmp_path / "train.py.json").read_text())
    assert arguments == ["--epochs", "1", "$(touch made)", ";touch made"] and not (tmp_path / "made").exists()
    assert TOKEN not in json.dumps(environment)
    assert json.loads((tmp_path / "out/result.json").read_text())["verdict"] == "refused"


def test_failed_training_is_told_with_its_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.py").write_text("raise SystemExit(2)\n")
    monkeypatch.chdir(tmp_path)
    assert pull_request.main(["run"], {"ACTION_OUTPUT": "out"}) == 2
    found = json.loads((tmp_path / "out/result.json").read_text())
    assert found["verdict"] == "failed" and found["reason"] == "train.py ended with exit code 2"
    assert pull_request.main(["run"], {"ACTION_MODE": "deploy"}) == 2
    assert pull_request.main(["run"], {"ACTION_MIN_MIOU": "much"}) == 2


def workflows() -> list[Path]:
    return [SOURCE / "action/action.yml", *sorted((SOURCE / ".github/workflows").glob("*.yml"))]


@pytest.mark.parametrize("path", workflows(), ids=lambda path: path.name)
def test_workflows_pin_actions_and_insert_nothing_into_commands(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for used in re.findall(r"uses: *(\S+)", text):
        assert re.fullmatch(r"\./.*|[\w./-]+@[0-9a-f]{40}", used), used
    assert not [line for line in text.splitlines() if re.search(r"\brun:.*\$\{\{", line)]
    content = yaml.safe_load(text)
    if "jobs" in content:
        assert content["permissions"] == {"contents": "read"} and "pull_request_target" not in text


def test_citation_names_the_version_of_the_project() -> None:
    citation = yaml.safe_load((SOURCE / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == VERSION
