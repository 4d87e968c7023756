"""Prepare a real lakeFS server: its first admin, the repository, the quality gate, and the branch's protection."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from config import ROOT, Settings
from core.console import say
from core.errors import AppError
from core.i18n import t

if TYPE_CHECKING:
    from utils.lakefs_utils import LakeFS

GATE_PREFIX = "_lakefs_actions/"  # where lakeFS looks for actions, in the source branch of each merge
GATE_FILE = "quality_gate.yaml"
ADMIN = "admin"


def setup(settings: Settings, require_passed: bool) -> None:
    """All of it, on the server of the settings; what is done already is said and left alone. Raises AppError."""
    if not settings.lakefs_endpoint:
        say(
            "LAKEFS_ENDPOINT 가 없습니다: 내장 서버에는 훅과 브랜치 보호가 없어 할 일이 없습니다.",
            "LAKEFS_ENDPOINT is unset: the embedded server has no hooks and no branch protection, nothing to do.",
        )
        return
    from utils.lakefs_utils import connect

    make_first_admin(settings)
    with connect(settings, create=True) as lake:
        put_gate(lake, require_passed)


def make_first_admin(settings: Settings) -> None:
    """Give a new server its first user, with the key pair of the settings; an initialised one is left alone."""
    import lakefs_sdk
    import urllib3
    from lakefs_sdk.client import LakeFSClient

    from utils.lakefs_client.connection import configuration

    endpoint = str(settings.lakefs_endpoint).rstrip("/")
    setup = LakeFSClient(configuration=configuration(f"{endpoint}/api/v1")).internal_api
    key = lakefs_sdk.AccessKeyCredentials(
        access_key_id=settings.lakefs_access_key_id, secret_access_key=settings.lakefs_secret_access_key
    )
    try:
        if setup.get_setup_state(_request_timeout=10).state != "initialized":
            setup.setup(lakefs_sdk.Setup(username=ADMIN, key=key), _request_timeout=60)
            say(f"첫 관리자를 만들었습니다: {ADMIN}", f"made the first user, {ADMIN}, with the keys of the settings")
            return
    except lakefs_sdk.ApiException as error:
        if error.status != 409:  # another process was first
            raise AppError(f"lakeFS {endpoint}: {error.status} {error.reason}") from error
    except urllib3.exceptions.HTTPError as error:
        raise AppError(
            t(
                f"lakeFS {endpoint}: 서버가 응답하지 않습니다: 서버를 시작하거나 LAKEFS_ENDPOINT 를 고치세요",
                f"lakeFS {endpoint}: the server does not answer: start it or mend LAKEFS_ENDPOINT",
            )
        ) from error
    say("첫 관리자: 이미 있습니다", "first user: done already")


def gate_text(branch: str, require_passed: bool) -> str:
    """The action file for this branch."""
    text = (ROOT / GATE_PREFIX / GATE_FILE).read_text(encoding="utf-8")
    text = text.replace('branches: ["main"]', f'branches: ["{branch}"]')
    return text.replace("require_passed: false", f"require_passed: {str(require_passed).lower()}")


def put_gate(lake: LakeFS, require_passed: bool) -> None:
    """Merge the action file into the branch, then protect the branch."""
    from core.git import read_facts
    from core.hashing import file_sha256
    from utils.lakefs_client.content import LocalFile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / GATE_FILE
        file.write_text(gate_text(lake.branch, require_passed), encoding="utf-8", newline="\n")
        files, message = {GATE_FILE: LocalFile(file, file_sha256(file))}, "gate: put the quality gate"
        done = lake.publish(files, GATE_PREFIX, message, read_facts(ROOT).metadata(), mirror=False)
    name = f"{lake.repo}/{lake.branch}"
    if done.uploaded:
        say(f"품질 게이트를 넣었습니다: {name}", f"put the quality gate into {name}")
    else:
        say("품질 게이트: 이미 있습니다", "quality gate: done already")
    if lake.protect():
        say(
            f"브랜치를 보호합니다: {name} 은(는) 병합으로만 바뀝니다 (몇 초 뒤부터)",
            f"protected {name}: only merges change it (the server takes a few seconds)",
        )
    else:
        say("브랜치 보호: 이미 되어 있습니다", "branch protection: done already")
