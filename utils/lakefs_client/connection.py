"""A connection to one lakeFS repository: the server, its keys, and what its errors mean in one line."""

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

from core.errors import AppError, UsageError
from core.i18n import tr
from core.workers import WORKERS
from utils.lakefs_client import transfer

HEALTH_S = 5.0  # seconds that a named server may take to answer before it counts as down


@dataclass(frozen=True)
class LakePath:
    """`lakefs://<repo>/<ref>/<path>`; what is stored anywhere has a full commit id as its ref."""

    repo: str
    ref: str
    path: str

    def __str__(self) -> str:
        return f"lakefs://{self.repo}/{self.ref}/{self.path}"

    @classmethod
    def parse(cls, uri: str) -> LakePath:
        """Raises UsageError for anything but lakefs://<repo>/<ref>/<path>."""
        match = re.fullmatch(r"lakefs://([^/]+)/([^/]+)/(.*)", uri)
        if not match:
            raise UsageError(tr("not a lakeFS path: '{uri}' (expected lakefs://<repo>/<commit>/<path>)", uri=uri))
        return cls(*match.groups())


class Connection:
    """One repository on one server, and the branch that results are merged into."""

    def __init__(self, endpoint: str, access_key_id: str, secret_access_key: str, repo: str, branch: str) -> None:
        from utils.lakefs_client.lazy_sdk import import_sdk

        import_sdk()
        from lakefs_sdk.client import LakeFSClient

        self.endpoint, self.repo, self.branch = endpoint.rstrip("/"), repo, branch
        self.workers = WORKERS  # transfers at once
        self.journals: Path | None = None  # folder where multipart uploads are noted, to go on after a kill
        self.api = f"{self.endpoint}/api/v1"
        self.asked = False  # whether anything was wanted of the server yet; the first time, it is looked for
        config = configuration(self.api, username=access_key_id, password=secret_access_key)
        self.sdk = LakeFSClient(configuration=config)
        self.sdk._api.deserialize = _told_apart(self.sdk._api.deserialize)
        self.pool = transfer.make_pool()
        self.sdk._api.rest_client.pool_manager = self.pool  # the SDK's own neither waits nor tries again
        auth = urllib3.make_headers(basic_auth=f"{access_key_id}:{secret_access_key}")
        self.transfer = transfer.Transfer(self.sdk, self.pool, self.api, auth)

    def close(self) -> None:
        """Let go of the connections."""
        self.pool.clear()
        self.transfer.wire.close()

    def __repr__(self) -> str:
        return f"LakeFS({self.endpoint}, {self.repo}, {self.branch})"

    def check(self) -> None:
        """Ask for the server's health, with a short patience, and for its configuration with the keys.

        It comes by itself before the first thing that is wanted of the server: what lies in the cache needs none.
        """
        self.asked = True
        with self.explained(tr("looking for the server")):
            self.pool.request(
                "GET", f"{self.api}/healthcheck", retries=urllib3.Retry(2, backoff_factor=0.3), timeout=HEALTH_S
            )
            self.sdk.config_api.get_config()

    @contextlib.contextmanager
    def explained(self, what: str) -> Iterator[None]:
        """Turn the SDK's and urllib3's exceptions into one line: what, which server, what came back, what to do."""
        from lakefs_sdk.exceptions import ApiException
        from pydantic.v1 import ValidationError

        if not self.asked:
            self.check()
        where = f"lakeFS {self.endpoint}, {self.repo}"
        try:
            yield
        except ApiException as error:
            words = server_words(error)
            if error.status == 404 and "repository not found" in words:
                raise UsageError(
                    tr(
                        "{what} ({where}): there is no such repository: train.py or lake.py push makes it",
                        what=what,
                        where=where,
                    )
                ) from error
            if error.status == 401:  # a 403 has a reason of its own: a protected branch, a right that the key lacks
                words = tr("check LAKEFS_ACCESS_KEY_ID and LAKEFS_SECRET_ACCESS_KEY")
            raise AppError(f"{what} ({where}): {error.status} {error.reason or ''}: {words}") from error
        except ValidationError as error:  # of what was to be asked: that of an answer is a NotLakeFS
            raise UsageError(f"{what} ({where}): {' '.join(str(error).split())[:200]}") from error
        except (ValueError, AttributeError, KeyError) as error:
            # No JSON, not its fields, or (None of the SDK) no status that belongs there: a proxy's page, another program.
            words = " ".join(str(error).split())[:200]
            raise AppError(
                tr(
                    "{what} ({where}): not an answer of lakeFS: check LAKEFS_ENDPOINT ({words})",
                    what=what,
                    where=where,
                    words=words,
                )
            ) from error
        except urllib3.exceptions.HTTPError as error:
            cause = getattr(error, "reason", None) or error
            raise AppError(
                tr(
                    "{what} ({where}): the server does not answer ({error_type}): start it or "
                    "mend LAKEFS_ENDPOINT (unset: the embedded server)",
                    what=what,
                    where=where,
                    error_type=type(cause).__name__,
                )
            ) from error


class NotLakeFS(ValueError):
    """An answer that lakeFS does not give."""


def _told_apart(deserialize: Callable[..., Any]) -> Callable[..., Any]:
    """The SDK raises ValueError both for what it is given to ask and for what comes back: say which it is."""

    def read(*arguments: Any) -> Any:
        try:
            return deserialize(*arguments)
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise NotLakeFS(str(error)) from error

    return read


def configuration(api: str, **keys: str) -> Any:
    """The SDK's configuration, which turns urllib3's warnings on again: each retry would be a line beside the error."""
    import lakefs_sdk

    log = logging.getLogger("urllib3")
    level = log.level
    made = lakefs_sdk.Configuration(host=api, **keys)
    log.setLevel(level)
    return made


def server_words(error: Any) -> str:
    """The server's own words in an ApiException, on one line."""
    try:
        return " ".join(str(json.loads(error.body)["message"]).split())
    except (TypeError, ValueError, KeyError):
        return " ".join(str(error.body or error.reason or error).split())[:300]
