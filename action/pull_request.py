"""The script of the composite action: train or evaluate, then post the result on the pull request.

    python pull_request.py run       # runs the scripts of the project; the token is not in its environment
    python pull_request.py post      # job summary, and a comment unless the pull request comes from a fork

Inputs come from environment variables, never from the text of a command. The exit code of `post` is 1 if the gate did not
pass. Only the standard library is used: the environment of the project is the one being tested.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MARKER = "<!-- segmentation-result -->"  # by which the comment of an earlier push is found
MAX_CLASSES, MAX_NAME, MAX_PAGES = 100, 80, 20
EXIT_BELOW = 3  # of register_model.py: not good enough
SECRETS = re.compile(r"TOKEN|^ACTIONS_(RUNTIME|ID_TOKEN|CACHE|RESULTS)", re.IGNORECASE)
SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~-])")
TIMEOUT_S = 30


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the step of this name; return the exit code, 2 for wrong inputs."""
    steps = {"run": run, "post": post}
    if len(arguments) != 1 or arguments[0] not in steps:
        print(__doc__)
        return 2
    try:
        return steps[arguments[0]](environment)
    except ValueError as error:
        _report("error", str(error))
        return 2


def run(environment: Mapping[str, str]) -> int:
    """Train or evaluate, and write result.json into the output directory; return the exit code of what failed, else 0."""
    output = Path(environment.get("ACTION_OUTPUT") or "action-output")
    mode, extra = environment.get("ACTION_MODE") or "train", shlex.split(environment.get("ACTION_ARGUMENTS", ""))
    if mode not in ("train", "evaluate"):
        raise ValueError(f"mode: expected train or evaluate, found {mode!r}")
    least = _number(environment.get("ACTION_MIN_MIOU") or "0")
    output.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"mode": mode, "verdict": "failed", "reason": ""}
    predictions = output / "predictions"
    code = _script(environment, "train.py", *extra) if mode == "train" else 0
    if code == 0 and mode == "train":
        gate = _script(environment, "register_model.py")
        result["verdict"] = {0: "passed", EXIT_BELOW: "refused"}.get(gate, "failed")
        result["reason"] = "" if gate == 0 else f"register_model.py ended with exit code {gate}"
        code = gate if gate not in (0, EXIT_BELOW) else 0
    if code == 0:
        code = _script(environment, "infer.py", "--output", str(predictions), *(extra if mode == "evaluate" else ()))
        if code:
            result |= {"verdict": "failed", "reason": f"infer.py ended with exit code {code}"}
        elif mode == "evaluate":
            found = _read(predictions / "predictions.json").get("miou")
            passed = isinstance(found, float) and found >= least
            result["verdict"] = "passed" if passed else "refused"
            result["reason"] = "" if passed else f"mIoU {found}, expected at least {least:g}"
    elif not result["reason"]:
        result["reason"] = f"train.py ended with exit code {code}"
    (output / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return code


def post(environment: Mapping[str, str]) -> int:
    """Write the job summary and, where it may, the comment; return 0 if the gate passed, else 1."""
    output = Path(environment.get("ACTION_OUTPUT") or "action-output")
    result = _read(output / "result.json") or {"verdict": "failed", "reason": "the step before wrote no result"}
    predictions = _read(output / "predictions" / "predictions.json")
    text = describe(result, predictions, environment.get("ACTION_IMAGES_URL", ""))
    if summary := environment.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(text)
    reason = _why_no_comment(environment)
    if reason:
        print(f"no comment: {reason}")
    else:
        _comment(environment, text)
    return 0 if result["verdict"] == "passed" else 1


def describe(result: Mapping[str, Any], predictions: Mapping[str, Any], images: str) -> str:
    """Return the result as Markdown. Names come from the pull request: nothing in them is markup or a mention."""
    verdict = {"passed": "The gate passed", "refused": "The gate refused the model"}.get(result["verdict"], "Failed")
    lines = [MARKER, f"### Segmentation: {verdict}", ""]
    if result.get("reason"):
        lines += [escape(str(result["reason"])), ""]
    if predictions:
        split, miou, accuracy = (predictions.get(key) for key in ("split", "miou", "accuracy"))
        lines += [f"{escape(str(split))} split: mIoU {_figure(miou)}, accuracy {_figure(accuracy)}", ""]
        iou = dict(predictions.get("iou") or {})
        lines += ["| class | IoU |", "|---|---|"]
        lines += [f"| {escape(str(name))} | {_figure(value)} |" for name, value in list(iou.items())[:MAX_CLASSES]]
        if len(iou) > MAX_CLASSES:
            lines += [f"| {len(iou) - MAX_CLASSES} more |  |"]
        lines += [""]
    if re.fullmatch(r"https://[^\s()<>]+", images):
        lines += [f"[Images, masks and overlays]({images}) (index.html in the archive shows them)", ""]
    return "\n".join(lines)


def escape(text: str) -> str:
    """Return a text of others for Markdown: one line, no markup, HTML, mention or link."""
    line = " ".join(text.split())[:MAX_NAME]
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return SPECIAL.sub(r"\\\1", line).replace("@", "@\u200b").replace("://", ":\u200b//")


def _script(environment: Mapping[str, str], *command: str) -> int:
    """Run a script of the project without a shell and without the tokens of GitHub."""
    kept = {key: value for key, value in environment.items() if not SECRETS.search(key)}
    return subprocess.run([sys.executable, *command], env=kept).returncode


def _why_no_comment(environment: Mapping[str, str]) -> str:
    """Return why no comment may be written; empty if it may."""
    event = _read(Path(environment.get("GITHUB_EVENT_PATH") or "event.json")).get("pull_request")
    if environment.get("ACTION_COMMENT", "true") != "true":
        return "not asked for"
    if not isinstance(event, dict):
        return "this is not a pull request"
    source = (event["head"].get("repo") or {}).get("full_name")
    if source != event["base"]["repo"]["full_name"]:
        return "the pull request comes from a fork, which has no token that may write"
    return "" if environment.get("ACTION_TOKEN") else "there is no token"


def _comment(environment: Mapping[str, str], text: str) -> None:
    """Replace the comment of an earlier push, else write one; a refusal is a warning, because the summary is written."""
    number = int(_read(Path(environment["GITHUB_EVENT_PATH"]))["pull_request"]["number"])
    issues = f"/repos/{environment['GITHUB_REPOSITORY']}/issues"
    try:
        for page in range(1, MAX_PAGES + 1):
            found = _call(environment, "GET", f"{issues}/{number}/comments?per_page=100&page={page}")
            own = [entry["id"] for entry in found if _is_own(entry)]
            if own:
                _call(environment, "PATCH", f"{issues}/comments/{int(own[0])}", {"body": text})
                return
            if len(found) < 100:
                break
        _call(environment, "POST", f"{issues}/{number}/comments", {"body": text})
    except urllib.error.HTTPError as error:
        _report(
            "warning", f"GitHub refused the comment ({error.code}): the job needs permissions: pull-requests: write"
        )
    except (OSError, ValueError) as error:
        _report("warning", f"the comment could not be written ({type(error).__name__})")


def _is_own(entry: Mapping[str, Any]) -> bool:
    """Return whether a comment is one of this action: others can write the marker too, but not as a bot."""
    return str(entry.get("body", "")).startswith(MARKER) and entry.get("user", {}).get("type") == "Bot"


def _call(environment: Mapping[str, str], method: str, path: str, content: object = None) -> Any:
    """Call GitHub's API; return the JSON of the answer."""
    request = urllib.request.Request(  # the URL is GitHub's
        environment.get("GITHUB_API_URL", "https://api.github.com") + path,
        None if content is None else json.dumps(content).encode(),
        {"Accept": "application/vnd.github+json", "Content-Type": "application/json"},
        method=method,
    )
    request.add_unredirected_header("Authorization", f"Bearer {environment['ACTION_TOKEN']}")
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return json.load(answer)


def _read(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file; empty if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise ValueError(f"{path}: expected JSON") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"min-miou: expected a number, found {text!r}") from None


def _figure(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "none"


def _report(kind: str, text: str) -> None:
    """Print an annotation of GitHub; its text cannot become another command."""
    print(f"::{kind}::" + text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
