"""The connection to one lakeFS repository: server, keys, and its errors as one-line messages."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

from config import ROOT
from core.errors import AppError, UsageError, one_line
from core.i18n import mark, tr
from core.provenance import code_files
from utils.identifiers import CommitId, InvalidValue, PathPrefix, Ref, Repository
from utils.lakefs_client import transfer
from utils.network.certificates import LAKEFS
from utils.network.failures import explain_failure, raise_if_refused
from utils.network.limits import LimitExceeded

MESSAGE_CHARACTERS = 2000  # of a server's own message that are shown
HEALTH_S = 5.0  # seconds that a configured server may take to answer before it counts as down


@dataclass(frozen=True, init=False)
class LakePath:
    """Path `lakefs://<repo>/<ref>/<path>`; in stored paths `ref` is a full commit id."""

    repo: Repository
    ref: Ref
    path: PathPrefix

    def __init__(self, repo: str, ref: str, path: str) -> None:
        """Check the parts. Raises InvalidValue."""
        object.__setattr__(self, "repo", Repository(repo))
        object.__setattr__(self, "ref", Ref(ref))
        object.__setattr__(self, "path", PathPrefix(path))

    def __str__(self) -> str:
        return f"lakefs://{self.repo}/{self.ref}/{self.path}"

    @property
    def commit(self) -> CommitId:
        """The commit that `ref` is. Raises InvalidValue if it is another reference, which may move."""
        return CommitId(self.ref)

    @classmethod
    def parse(cls, uri: str) -> LakePath:
        """Parse lakefs://<repo>/<ref>/<path>. Raises UsageError for anything else."""
        match = re.fullmatch(r"lakefs://([^/]+)/([^/]+)/(.*)", uri, re.DOTALL)
        if not match:
            raise UsageError(tr("not a lakeFS path: '{uri}' (expected lakefs://<repo>/<commit>/<path>)", uri=uri))
        try:
            return cls(*match.groups())
        except InvalidValue as error:
            raise UsageError(tr("not a lakeFS path: '{uri}' ({reason})", uri=uri, reason=error)) from error

    @classmethod
    def parse_recorded(cls, value: object) -> LakePath:
        """Parse the path of a run, a version or a file, which must name a full commit id. Raises InvalidValue."""
        path = None
        with contextlib.suppress(UsageError):
            path = cls.parse(value) if isinstance(value, str) else None
        if path is None or not CommitId.accepts(path.ref):
            raise InvalidValue(mark("recorded lakeFS path"), tr("lakefs://<repo>/<full commit ID>/<path>"), value)
        return path


class Connection:
    """Connection to one repository on one server, with the target branch into which results are merged."""

    def __init__(
        self,
        endpoint: str,
        access_key_id: str,
        secret_access_key: str,
        repo: str,
        branch: str,
        workers: int,
        journals: Path | None,
    ) -> None:
        """Prepare the client; the server is asked at the first request.

        `workers`: concurrent transfers; `journals`: directory of the journals by which multipart uploads are resumed.
        """
        from utils.lakefs_client.lazy_sdk import import_sdk

        import_sdk()
        from lakefs_sdk.client import LakeFSClient

        self.endpoint, self.repo, self.branch = endpoint.rstrip("/"), repo, branch
        self.workers, self.journals = workers, journals
        self.store = f"lakeFS {self.endpoint}"  # where the data is, for messages
        self.at_close = contextlib.ExitStack()  # for what works as long as the connection is open
        self.api = f"{self.endpoint}/api/v1"
        self.contacted = False  # the health of the server is checked before the first request
        config = make_configuration(self.api, username=access_key_id, password=secret_access_key)
        self.sdk = LakeFSClient(configuration=config)
        self.pool = transfer.make_pool()
        _adapt_sdk(self.sdk, self.pool)
        auth = urllib3.make_headers(basic_auth=f"{access_key_id}:{secret_access_key}")
        self.transfer = transfer.Transfer(self.sdk, self.pool, self.api, auth)

    def close(self) -> None:
        """End what `at_close` has been given, and close the connections."""
        self.at_close.close()
        self.pool.clear()
        self.transfer.http.close()

    def __repr__(self) -> str:
        return f"LakeFS({self.endpoint}, {self.repo}, {self.branch})"

    def check(self) -> None:
        """Check the server's health, with a short timeout, and the keys, by reading its configuration.

        It is called before the first request; what is in the cache needs no server.
        """
        self.contacted = True
        with self.convert_errors(tr("connecting to lakeFS")):
            health = f"{self.api}/healthcheck"
            retries = urllib3.Retry(2, backoff_factor=0.3)
            raise_if_refused(self.pool, health, self.pool.request("GET", health, retries=retries, timeout=HEALTH_S))
            self.sdk.config_api.get_config()

    @contextlib.contextmanager
    def convert_errors(self, what: str) -> Iterator[None]:
        """Convert exceptions of the SDK and urllib3 to AppError: operation, server, its response, how to fix it."""
        from lakefs_sdk.exceptions import ApiException
        from pydantic.v1 import ValidationError

        if not self.contacted:
            self.check()
        where = f"lakeFS {self.endpoint}, {self.repo}"
        try:
            yield
        except ApiException as error:
            message = server_message(error)
            if error.status == 404 and "repository not found" in message:
                raise MissingRepository(
                    tr("{what} ({where}): no such repository: {fix}", what=what, where=where, fix=missing_store_fix())
                ) from error
            if error.status == 401:  # a 403 has its own reason: a protected branch, or a missing permission
                message = tr("check LAKEFS_ACCESS_KEY_ID and LAKEFS_SECRET_ACCESS_KEY")
            raise AppError(f"{what} ({where}): {error.status} {error.reason or ''}: {message}") from error
        except ValidationError as error:  # of the request: an invalid response raises InvalidResponse
            raise UsageError(f"{what} ({where}): {one_line(error, 200)}") from error
        except (InvalidValue, LimitExceeded) as error:
            raise AppError(
                tr("{what} ({where}): refused the server's response: {reason}", what=what, where=where, reason=error)
            ) from error
        except (ValueError, AttributeError, LookupError, RecursionError) as error:
            # No JSON, other fields, or an unexpected status: the page of a proxy, or another program.
            raise AppError(
                tr(
                    "{what} ({where}): not a response of lakeFS: check LAKEFS_ENDPOINT ({error})",
                    what=what,
                    where=where,
                    error=one_line(error, 200),
                )
            ) from error
        except urllib3.exceptions.HTTPError as error:
            reason = explain_failure(error, self.endpoint, self.pool.policy, LAKEFS)
            if reason:
                raise AppError(f"{what} ({where}): {reason}") from error
            cause = getattr(error, "reason", None) or error
            raise AppError(
                tr(
                    "{what} ({where}): the server does not answer ({error_type}): start it, or "
                    "correct LAKEFS_ENDPOINT (unset: the embedded server)",
                    what=what,
                    where=where,
                    error_type=type(cause).__name__,
                )
            ) from error


def missing_store_fix(recorded: bool = False) -> str:
    """Return what to do about a missing repository; data that is `recorded`, or that the lock names, is elsewhere."""
    if recorded or code_files.lock_path(ROOT).exists():
        return tr(
            "its data is in another store: set LAKEFS_ENDPOINT and its keys to the server that has it, or "
            "LAKEFS_LOCAL_DIR to the .lakefs directory and MLFLOW_TRACKING_URI to the mlflow.db of the clone that "
            "committed it"
        )
    return tr("train.py or lake.py push creates it")


class MissingRepository(UsageError):
    """The server does not have the repository that was asked for."""


def is_missing(error: AppError) -> bool:
    """Return whether the server answered that it does not have what was asked for; no answer is another error."""
    return getattr(error.__cause__, "status", None) == 404


class InvalidResponse(ValueError):
    """Response that does not come from lakeFS."""


def _adapt_sdk(sdk: Any, pool: urllib3.PoolManager) -> None:
    """Let lakefs-sdk (a private attribute, in 1.60 to 1.x) use our connections and tell apart invalid responses.

    Its own connections have no timeout and no retries. It raises ValueError both for invalid arguments and for invalid
    responses.
    """
    sdk._api.deserialize = _marking_invalid_responses(sdk._api.deserialize)
    sdk._api.rest_client.pool_manager = pool


def _marking_invalid_responses(deserialize: Callable[..., Any]) -> Callable[..., Any]:
    def deserialize_or_raise(*arguments: Any) -> Any:
        try:
            return deserialize(*arguments)
        except (ValueError, AttributeError, LookupError, TypeError, RecursionError) as error:
            raise InvalidResponse(str(error)) from error

    return deserialize_or_raise


def make_configuration(api: str, **keys: str) -> Any:
    """Return the SDK's configuration; it enables urllib3's warnings, one line per retry: disable them again."""
    import lakefs_sdk

    log = logging.getLogger("urllib3")
    level = log.level
    result = lakefs_sdk.Configuration(host=api, **keys)
    log.setLevel(level)
    return result


def server_message(error: Any) -> str:
    """Return the server's message in an ApiException, on one line."""
    try:
        message = json.loads(error.body)["message"]
    except (TypeError, ValueError, LookupError, RecursionError):
        message = None
    if not isinstance(message, str):
        return one_line(error.body or error.reason or error, 300)
    return one_line(message, MESSAGE_CHARACTERS)
