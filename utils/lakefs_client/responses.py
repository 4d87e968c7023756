"""Responses of lakeFS as checked values: a server can name no path, commit or hash that its type does not allow."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from utils.identifiers import Branch, Checksum, CommitId, ObjectPath, Sha256, Tag, parse_size, parse_time
from utils.lakefs_client.content import RemoteFile

CHANGE_TYPES = ("added", "removed", "changed", "conflict")
T = TypeVar("T")


@dataclass(frozen=True)
class Commit:
    """Commit of lakeFS; `meta_range_id` is equal for commits of the same files."""

    id: CommitId
    parents: list[CommitId]
    message: str
    creation_date: int  # seconds since 1970
    metadata: dict[str, str]
    meta_range_id: str
    generation: int


@dataclass(frozen=True)
class Change:
    """Path that differs between two versions; `type` is one of `CHANGE_TYPES`."""

    path: ObjectPath
    type: str


def parse_commit(model: Any) -> Commit:
    """Return a commit from the model of lakefs-sdk. Raises InvalidValue."""
    return Commit(
        id=CommitId(model.id),
        parents=[CommitId(parent) for parent in model.parents],
        message=str(model.message),
        creation_date=parse_time(model.creation_date) or 0,
        metadata=dict(model.metadata or {}),
        meta_range_id=str(model.meta_range_id),
        generation=int(model.generation or 0),
    )


def parse_branch(model: Any) -> tuple[Branch, CommitId]:
    """Return the name and the head of a branch. Raises InvalidValue."""
    return Branch(model.id), CommitId(model.commit_id)


def parse_tag(model: Any) -> tuple[Tag, CommitId]:
    """Return the name and the commit of a tag. Raises InvalidValue."""
    return Tag(model.id), CommitId(model.commit_id)


def parse_change(model: Any) -> Change | None:
    """Return a difference; None for the marker of a directory. Raises ValueError."""
    if model.type not in CHANGE_TYPES:
        raise ValueError(f"type {model.type!r:.80}")
    return None if str(model.path).endswith("/") else Change(ObjectPath(model.path), str(model.type))


def parse_models(page: Any, parse: Callable[[Any], T | None]) -> tuple[list[T], str | None]:
    """Return the parsed results of an SDK page, and the offset of the next page. Raises ValueError."""
    results = [found for found in map(parse, page.results) if found is not None]
    return results, page.pagination.next_offset if page.pagination.has_more else None


def parse_objects(body: bytes, links: bool) -> tuple[list[RemoteFile], str | None]:
    """Return a page of objects and the offset of the next. Raises ValueError or KeyError for an invalid page.

    Some S3 clients write an empty object `a/` for a directory: it has no content, and no file can have this name.
    """
    try:
        page = json.loads(body)
        pagination = page["pagination"]
        results = [
            _remote_file(found, links)
            for found in page["results"]
            if not (str(found["path"]).endswith("/") and not found.get("size_bytes"))
        ]
        return results, str(pagination["next_offset"]) if pagination["has_more"] else None
    except (TypeError, AttributeError) as error:  # a list instead of an object
        raise ValueError(str(error)) from error


def parse_object(body: bytes) -> RemoteFile:
    """Return the facts of one object with its presigned link. Raises ValueError or KeyError for an invalid response."""
    try:
        return _remote_file(json.loads(body), links=True)
    except (TypeError, AttributeError) as error:  # a list instead of an object
        raise ValueError(str(error)) from error


def parse_checksum(body: bytes) -> Checksum:
    """Return the checksum that an upload is answered with. Raises ValueError or KeyError for another response."""
    try:
        return Checksum(json.loads(body)["checksum"])
    except TypeError as error:  # a list or a number instead of an object
        raise ValueError(str(error)) from error


def parse_sha256(metadata: Mapping[str, Any]) -> Sha256 | None:
    """Return the SHA-256 that an object was published with; None for an object of another client.

    That may have an entry of the same name and another form: it is no hash then, and must not become a file name.
    """
    sha256 = metadata.get("sha256")
    return Sha256(sha256) if isinstance(sha256, str) and Sha256.accepts(sha256) else None


def require_order(paths: Sequence[str], prefix: str, after: str) -> None:
    """Raise ValueError if the paths of a page are not below `prefix`, each once, in order, and after the last page."""
    for path in paths:
        if not path.startswith(prefix) or path <= after:
            raise ValueError(f"{path!r:.80} after {after!r:.80}, below {prefix!r:.80}")
        after = path


def _remote_file(found: dict[str, Any], links: bool) -> RemoteFile:
    return RemoteFile(
        path=ObjectPath(found["path"]),
        size_bytes=parse_size(found.get("size_bytes")),
        sha256=parse_sha256(found.get("metadata") or {}),
        checksum=Checksum(found["checksum"]),
        link=found["physical_address"] if links else None,
        mtime=parse_time(found.get("mtime")),
        link_expiry=parse_time(found.get("physical_address_expiry")) if links else None,
    )
