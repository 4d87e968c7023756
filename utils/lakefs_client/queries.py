"""What a repository holds, asked without changing it: references, commits, objects, differences; a page at a time."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from core.errors import UsageError
from core.i18n import tr
from utils.lakefs_client.connection import Connection, server_words
from utils.lakefs_client.content import RemoteFile

COMMIT_ID = SHA256 = re.compile("[0-9a-f]{64}")
T = TypeVar("T")


class Reading(Connection):
    """Questions about the repository, or another one of the same server."""

    def head(self, branch: str | None = None) -> str:
        """Full id of a branch's newest commit."""
        with self.explained(tr("branch {branch}", branch=branch or self.branch)):
            return str(self.sdk.branches_api.get_branch(self.repo, branch or self.branch).commit_id)

    def default_branch(self) -> str:
        """The branch that the repository was made with, which cannot be deleted."""
        with self.explained(tr("the repository")):
            return str(self.sdk.repositories_api.get_repository(self.repo).default_branch)

    def resolve(self, ref: str, repo: str | None = None) -> str:
        """Full commit id of a branch, tag, commit id or unique beginning of one, `main~1`. Raises UsageError."""
        from lakefs_sdk.exceptions import ApiException

        with self.explained(tr("version '{ref}'", ref=ref)):
            try:
                return str(self.sdk.commits_api.get_commit(repo or self.repo, ref).id)
            except ApiException as error:
                if error.status not in (400, 404):
                    raise
                if "repository not found" in server_words(error):
                    raise UsageError(
                        tr(
                            "lakeFS {endpoint} has no repository '{repo}': train.py or lake.py push makes it",
                            endpoint=self.endpoint,
                            repo=repo or self.repo,
                        )
                    ) from error
        names = [name for name, _ in [*self.list_refs("branches", repo), *self.list_refs("tags", repo)]]
        there = ", ".join(names[:10]) + (" …" if len(names) > 10 else "")
        raise UsageError(
            tr(
                "'{ref}' is no branch, tag or commit (repository {repo} has: {there})",
                ref=ref,
                repo=repo or self.repo,
                there=there,
            )
        )

    def list_refs(self, kind: str, repo: str | None = None, copied: bool = False) -> Iterator[tuple[str, str]]:
        """(name, full commit id) of all 'branches' or 'tags', by name.

        Tags by which `utils.copy_history` leads from the old ids of commits to the new ones come only if `copied`.
        """
        api = {"branches": self.sdk.branches_api.list_branches, "tags": self.sdk.tags_api.list_tags}[kind]
        ask = functools.partial(api, repo or self.repo, amount=1000)
        for found in self._pages(tr("listing {kind}", kind=kind), lambda after: _models(ask(after=after))):
            if copied or not COMMIT_ID.fullmatch(found.id):
                yield str(found.id), str(found.commit_id)

    def has_branch(self, name: str) -> bool:
        from lakefs_sdk.exceptions import NotFoundException

        with self.explained(tr("branch {name}", name=name)):
            try:
                self.sdk.branches_api.get_branch(self.repo, name)
            except NotFoundException:
                return False
            return True

    def contains(self, branch: str, commit_id: str) -> bool:
        """Whether a commit is in the history of a branch; False for one that the repository does not know."""
        from lakefs_sdk.exceptions import NotFoundException

        with self.explained(tr("branch {branch}", branch=branch)):
            try:
                wanted = self.sdk.commits_api.get_commit(self.repo, commit_id).id  # an old id leads to its copy
                found = self.sdk.refs_api.find_merge_base(self.repo, wanted, branch)
            except NotFoundException:
                return False
            return bool(found.base_commit_id == wanted)

    def commit(self, commit_id: str) -> Any:
        """One commit, as lakefs-sdk has it."""
        with self.explained(tr("commit {commit_id}", commit_id=commit_id[:12])):
            return self.sdk.commits_api.get_commit(self.repo, commit_id)

    def commit_metadata(self, commit_id: str) -> dict[str, str]:
        """The metadata of one commit."""
        return dict(self.commit(commit_id).metadata or {})

    def log(self, ref: str, first_parent: bool = True, prefix: str = "", repo: str | None = None) -> Iterator[Any]:
        """Commits from `ref` back, newest first, a page at a time; with `prefix` those that changed something below it."""
        ask = functools.partial(
            self.sdk.refs_api.log_commits,
            repo or self.repo,
            ref,
            amount=100,
            first_parent=first_parent,
            prefixes=[prefix] if prefix else [],
        )
        return self._pages(tr("reading the log"), lambda after: _models(ask(after=after)))

    def differences(self, left: str, right: str, kind: str = "two_dot", repo: str | None = None) -> Iterator[Any]:
        """Paths that differ, with their `type`; 'three_dot': what `right` changed since both were one, and conflicts."""
        ask = functools.partial(self.sdk.refs_api.diff_refs, repo or self.repo, left, right, amount=1000, type=kind)
        return self._pages(tr("comparing"), lambda after: _models(ask(after=after)))

    def objects(self, ref: str, prefix: str, repo: str | None = None, links: bool = False) -> Iterator[RemoteFile]:
        """Objects under a prefix in the order of their paths' bytes, one page of 1,000 in memory at a time.

        With `links`, each has a presigned link for its download, where the server gives them.
        """
        # As JSON: the SDK's model takes 0.4 ms of CPU to check one object, and a sync lists them all.
        ask = functools.partial(
            self.sdk.objects_api.list_objects_with_http_info,
            repo or self.repo,
            ref,
            prefix=prefix,
            amount=1000,
            user_metadata=True,
            presign=links,
            _preload_content=False,
        )
        what = tr("listing {ref}/{prefix}", ref=ref[:12], prefix=prefix)
        return self._pages(what, lambda after: _page(ask(after=after).raw_data, links))

    def _pages(self, what: str, ask: Callable[[str], tuple[list[T], str | None]]) -> Iterator[T]:
        """Everything that a listing gives; `ask` takes the place to go on from, and gives a page and the next place."""
        after: str | None = ""
        while after is not None:
            with self.explained(what):
                results, following = ask(after)
                if following == after:
                    raise ValueError(f"has_more, next_offset {after!r} again")
            yield from results
            after = following


def _models(page: Any) -> tuple[list[Any], str | None]:
    """A page as lakefs-sdk has it, and where the next one begins."""
    return page.results, page.pagination.next_offset if page.pagination.has_more else None


def _page(answer: bytes, links: bool) -> tuple[list[RemoteFile], str | None]:
    """A page of objects, and where the next one begins. Raises ValueError, KeyError for what is no such page."""
    page = json.loads(answer)
    try:
        pagination, results = page["pagination"], [_remote_file(found, links) for found in page["results"]]
        return results, str(pagination["next_offset"]) if pagination["has_more"] else None
    except TypeError as error:  # a list where an object belongs
        raise ValueError(str(error)) from error


def _remote_file(found: dict[str, Any], links: bool) -> RemoteFile:
    sha256 = (found.get("metadata") or {}).get("sha256")
    if sha256 is not None and not SHA256.fullmatch(sha256):
        sha256 = None  # another client's: what is no hash must not become the name of a file
    path, checksum = found["path"], found["checksum"]
    if not isinstance(path, str) or not isinstance(checksum, str):
        raise ValueError(f"path {path!r}, checksum {checksum!r}")
    return RemoteFile(
        path, found.get("size_bytes") or 0, sha256, checksum, found["physical_address"] if links else None
    )
