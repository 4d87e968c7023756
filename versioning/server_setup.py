"""Prepare a real lakeFS server: first admin, repository, quality gate, and branch protection."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from config import ROOT, Settings
from core.errors import AppError
from core.i18n import tr
from core.reporting import notify
from utils.network.certificates import LAKEFS

if TYPE_CHECKING:
    from utils.lakefs_utils import LakeFS

GATE_PREFIX = "_lakefs_actions/"  # where lakeFS reads actions, in the source branch of each merge
GATE_FILE = "quality_gate.yaml"
ADMIN = "admin"


def setup(settings: Settings, require_passed: bool) -> None:
    """Prepare the server of the settings; steps that are done already are reported and skipped. Raises AppError."""
    if not settings.lakefs_endpoint:
        notify(
            tr("LAKEFS_ENDPOINT is not set: the embedded server has no hooks and no branch protection, nothing to do.")
        )
        return
    from utils.lakefs_utils import connect

    create_first_admin(settings)
    with connect(settings, create=True) as lake:
        install_gate(lake, require_passed)


def create_first_admin(settings: Settings) -> None:
    """Create the first user of a new server, with the key pair of the settings; skip an initialized server."""
    import lakefs_sdk
    import urllib3
    from lakefs_sdk.client import LakeFSClient

    from utils.lakefs_client.connection import make_configuration
    from utils.network.failures import explain_failure
    from utils.network.policy import NetworkPolicy, PolicyPool

    endpoint = str(settings.lakefs_endpoint).rstrip("/")
    setup = LakeFSClient(configuration=make_configuration(f"{endpoint}/api/v1")).internal_api
    pool = PolicyPool(NetworkPolicy.from_environment(), LAKEFS)
    setup.api_client.rest_client.pool_manager = pool
    key = lakefs_sdk.AccessKeyCredentials(
        access_key_id=settings.lakefs_access_key_id, secret_access_key=settings.lakefs_secret_access_key
    )
    try:
        if setup.get_setup_state(_request_timeout=10).state != "initialized":
            setup.setup(lakefs_sdk.Setup(username=ADMIN, key=key), _request_timeout=60)
            notify(tr("created the first user, {admin}, with the keys of the settings", admin=ADMIN))
            return
    except lakefs_sdk.ApiException as error:
        if error.status != 409:  # another process was first
            raise AppError(f"lakeFS {endpoint}: {error.status} {error.reason}") from error
    except urllib3.exceptions.HTTPError as error:
        reason = explain_failure(error, endpoint, pool.policy, LAKEFS)
        if reason:
            raise AppError(f"lakeFS {endpoint}: {reason}") from error
        raise AppError(
            tr("lakeFS {endpoint}: the server does not answer: start it, or correct LAKEFS_ENDPOINT", endpoint=endpoint)
        ) from error
    notify(tr("first user: exists already"))


def gate_text(branch: str, require_passed: bool) -> str:
    """Return the action file for this branch."""
    text = (ROOT / GATE_PREFIX / GATE_FILE).read_text(encoding="utf-8")
    text = text.replace('branches: ["main"]', f'branches: ["{branch}"]')
    return text.replace("require_passed: false", f"require_passed: {str(require_passed).lower()}")


def install_gate(lake: LakeFS, require_passed: bool) -> None:
    """Merge the action file into the branch, then protect the branch."""
    from core.git import read_facts
    from core.hashing import file_sha256
    from utils.lakefs_client.content import LocalFile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / GATE_FILE
        file.write_text(gate_text(lake.branch, require_passed), encoding="utf-8", newline="\n")
        files, message = {GATE_FILE: LocalFile(file, file_sha256(file))}, "gate: install the quality gate"
        done = lake.publish(files, GATE_PREFIX, message, read_facts(ROOT).metadata(), mirror=False)
    name = f"{lake.repo}/{lake.branch}"
    if done.uploaded:
        notify(tr("installed the quality gate in {name}", name=name))
    else:
        notify(tr("quality gate: installed already"))
    if lake.protect():
        notify(tr("protected {name}: only merges can change it (takes effect within seconds)", name=name))
    else:
        notify(tr("branch protection: enabled already"))
