"""Read-only queries: references, commits, objects and differences, page by page."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

from core.errors import UsageError
from core.i18n import tr
from core.reporting import progress
from utils.identifiers import Branch, CommitId, InvalidValue, Ref
from utils.lakefs_client.connection import Connection, MissingRepository, missing_store_fix, server_message
from utils.lakefs_client.content import RemoteFile
from utils.lakefs_client.responses import (
    Change,
    Commit,
    parse_branch,
    parse_change,
    parse_commit,
    parse_models,
    parse_object,
    parse_objects,
    parse_tag,
    require_order,
)
from utils.network.limits import PageLimit

PAGE, LOG_PAGE = 1000, 100  # entries of a page that are asked for; lakeFS allows no more than 1,000
T = TypeVar("T")


class Queries:
    """Read-only queries of the repository, or of another one on the same server (`repo`)."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def head(self, branch: str | None = None) -> CommitId:
        """Return the full id of a branch's newest commit."""
        name = branch or self.connection.branch
        with self.connection.convert_errors(tr("branch {branch}", branch=name)):
            return CommitId(self.connection.sdk.branches_api.get_branch(self.connection.repo, name).commit_id)

    def default_branch(self) -> Branch:
        """Return the branch that the repository was created with, which cannot be deleted."""
        with self.connection.convert_errors(tr("the repository")):
            return Branch(self.connection.sdk.repositories_api.get_repository(self.connection.repo).default_branch)

    def resolve(self, ref: str, repo: str | None = None) -> CommitId:
        """Return the full commit id of a branch, tag, commit id or unique prefix, or `main~1`. Raises UsageError."""
        from lakefs_sdk.exceptions import ApiException

        if not Ref.accepts(ref):  # `..` would be another path of the API
            raise UsageError(str(InvalidValue(Ref.kind, tr(Ref.rule), ref)))
        with self.connection.convert_errors(tr("version '{ref}'", ref=ref)):
            try:
                return CommitId(self.connection.sdk.commits_api.get_commit(repo or self.connection.repo, ref).id)
            except ApiException as error:
                if error.status not in (400, 404):
                    raise
                if "repository not found" in server_message(error):
                    raise MissingRepository(
                        tr(
                            "lakeFS {endpoint} has no repository '{repo}': {fix}",
                            endpoint=self.connection.endpoint,
                            repo=repo or self.connection.repo,
                            fix=missing_store_fix(CommitId.accepts(ref)),
                        )
                    ) from error
        names = [name for name, _ in [*self.list_refs("branches", repo), *self.list_refs("tags", repo)]]
        available = ", ".join(names[:10]) + (" …" if len(names) > 10 else "")
        raise UsageError(
            tr(
                "'{ref}' is not a branch, tag or commit of repository {repo} (available: {available})",
                ref=ref,
                repo=repo or self.connection.repo,
                available=available,
            )
        )

    def list_refs(
        self, kind: Literal["branches", "tags"], repo: str | None = None, copied: bool = False
    ) -> Iterator[tuple[str, CommitId]]:
        """Yield (name, full commit id) of all 'branches' or 'tags', sorted by name.

        Tags that map old commit ids to new ones (`versioning.migrate`) are included only if `copied`.
        """
        sdk = self.connection.sdk
        call = sdk.tags_api.list_tags if kind == "tags" else sdk.branches_api.list_branches
        parse: Callable[[object], tuple[str, CommitId]] = parse_tag if kind == "tags" else parse_branch
        request = functools.partial(call, repo or self.connection.repo, amount=PAGE)
        listed = self._pages(
            tr("listing tags") if kind == "tags" else tr("listing branches"),
            lambda after: parse_models(request(after=after), parse),
            PAGE,
        )
        return ((name, commit_id) for name, commit_id in listed if copied or not CommitId.accepts(name))

    def has_repository(self, repo: str | None = None) -> bool:
        """Return whether a repository exists on the server."""
        from lakefs_sdk.exceptions import NotFoundException

        with self.connection.convert_errors(tr("the repository")):
            try:
                self.connection.sdk.repositories_api.get_repository(repo or self.connection.repo)
            except NotFoundException:
                return False
            return True

    def has_branch(self, name: str) -> bool:
        """Return whether a branch exists."""
        from lakefs_sdk.exceptions import NotFoundException

        with self.connection.convert_errors(tr("branch {name}", name=name)):
            try:
                self.connection.sdk.branches_api.get_branch(self.connection.repo, name)
            except NotFoundException:
                return False
            return True

    def contains(self, branch: str, commit_id: str) -> bool:
        """Return whether a commit is in the history of a branch; False for an unknown commit."""
        from lakefs_sdk.exceptions import NotFoundException

        with self.connection.convert_errors(tr("branch {branch}", branch=branch)):
            try:
                # An old id of a migrated commit is a tag: it must be resolved first.
                wanted = CommitId(self.connection.sdk.commits_api.get_commit(self.connection.repo, commit_id).id)
                found = self.connection.sdk.refs_api.find_merge_base(self.connection.repo, wanted, branch)
            except NotFoundException:
                return False
            return bool(found.base_commit_id == wanted)

    def merge_base(self, left: str, right: str) -> CommitId | None:
        """Return the newest commit that is in the history of both commits; None without one, or for an unknown commit."""
        from lakefs_sdk.exceptions import NotFoundException

        with self.connection.convert_errors(tr("comparing")):
            try:
                found = self.connection.sdk.refs_api.find_merge_base(self.connection.repo, left, right)
            except NotFoundException:
                return None
            return CommitId(found.base_commit_id) if found.base_commit_id else None

    def commit(self, commit_id: str, repo: str | None = None) -> Commit:
        """Return a commit."""
        with self.connection.convert_errors(tr("commit {commit_id}", commit_id=commit_id[:12])):
            return parse_commit(self.connection.sdk.commits_api.get_commit(repo or self.connection.repo, commit_id))

    def commit_metadata(self, commit_id: str, repo: str | None = None) -> dict[str, str]:
        """Return the metadata of a commit."""
        return self.commit(commit_id, repo).metadata

    def log(self, ref: str, first_parent: bool = True, prefix: str = "", repo: str | None = None) -> Iterator[Commit]:
        """Yield commits from `ref` back, newest first; with `prefix` those that changed something below it."""
        request = functools.partial(
            self.connection.sdk.refs_api.log_commits,
            repo or self.connection.repo,
            ref,
            amount=LOG_PAGE,
            first_parent=first_parent,
            prefixes=[prefix] if prefix else [],
        )
        what = tr("reading the log")
        return self._pages(what, lambda after: parse_models(request(after=after), parse_commit), LOG_PAGE)

    def differences(self, left: str, right: str, kind: str = "two_dot", repo: str | None = None) -> Iterator[Change]:
        """Yield differing paths with their `type`; 'three_dot': changes of `right` since the merge base, and conflicts."""
        request = functools.partial(
            self.connection.sdk.refs_api.diff_refs, repo or self.connection.repo, left, right, amount=PAGE, type=kind
        )
        return self._pages(tr("comparing"), lambda after: parse_models(request(after=after), parse_change), PAGE)

    def objects(self, ref: str, prefix: str, repo: str | None = None, links: bool = False) -> Iterator[RemoteFile]:
        """Yield objects under a prefix in the byte order of their paths, with one page of 1,000 in memory.

        With `links`, each has a presigned link for its download, if the server supports them.
        """
        # As JSON: the SDK's model takes 0.4 ms of CPU to validate one object, and a sync lists them all.
        request = functools.partial(
            self.connection.sdk.objects_api.list_objects_with_http_info,
            repo or self.connection.repo,
            ref,
            prefix=prefix,
            amount=PAGE,
            user_metadata=True,
            presign=links,
            _preload_content=False,
        )
        what = tr("listing {ref}/{prefix}", ref=ref[:12], prefix=prefix)

        def list_page(after: str) -> tuple[list[RemoteFile], str | None]:
            results, following = parse_objects(request(after=after).raw_data, links)
            require_order([file.path for file in results], prefix, after)
            return results, following

        return progress(self._pages(what, list_page, PAGE), None, tr("listing the files on lakeFS"), tr("files"))

    def renew_link(self, ref: str, path: str, repo: str | None = None) -> RemoteFile:
        """Return an object with a new presigned link for its download."""
        with self.connection.convert_errors(tr("a link to {path}", path=path)):
            response = self.connection.sdk.objects_api.stat_object_with_http_info(
                repo or self.connection.repo, ref, path, user_metadata=True, presign=True, _preload_content=False
            )
            return parse_object(response.raw_data)

    def _pages(self, what: str, request: Callable[[str], tuple[list[T], str | None]], page_size: int) -> Iterator[T]:
        """Yield all results of a listing; `request` takes an offset and returns a page and the next offset (None: last page)."""
        after: str | None = ""
        limit = PageLimit(page_size)
        while after is not None:
            with self.connection.convert_errors(what):
                results, following = request(after)
                limit.check(len(results), following)
            yield from results
            after = following
