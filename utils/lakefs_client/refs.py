"""Create, protect and delete the repository's branches and tags, and the repository itself."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Mapping

from config import Settings
from core.errors import AppError, UsageError
from core.i18n import tr
from core.reporting import notify
from utils.identifiers import Branch, CommitId, Ref, Tag
from utils.lakefs_client.connection import Connection, LakePath
from utils.lakefs_client.queries import Queries


class TagConflict(AppError):
    """Existing tag on a commit other than the expected one."""


class Refs:
    """Changes of the repository, its branches and its tags."""

    def __init__(self, connection: Connection, queries: Queries) -> None:
        self.connection = connection
        self.queries = queries

    def ensure_repository(self, settings: Settings) -> None:
        """Create the repository and the branch if they are missing; two processes may do so at once."""
        import lakefs_sdk
        from lakefs_sdk.exceptions import ApiException, NotFoundException

        with self.connection.convert_errors(tr("preparing the repository")):
            try:
                repository = self.connection.sdk.repositories_api.get_repository(self.connection.repo)
            except NotFoundException:
                namespace = f"{self._namespace_prefix(settings)}/{self.connection.repo}/{uuid.uuid4().hex[:8]}"
                creation = lakefs_sdk.RepositoryCreation(
                    name=self.connection.repo, storage_namespace=namespace, default_branch=self.connection.branch
                )
                try:
                    repository = self.connection.sdk.repositories_api.create_repository(creation)
                    notify(tr("created the lakeFS repository {repo}", repo=self.connection.repo))
                except ApiException as error:
                    if error.status != 409:
                        raise
                    repository = self.connection.sdk.repositories_api.get_repository(self.connection.repo)
            if self.connection.branch != repository.default_branch:
                self.create_branch(self.connection.branch, repository.default_branch)

    def _namespace_prefix(self, settings: Settings) -> str:
        """Return the storage namespace prefix of a new repository; create its bucket if MINIO_ENDPOINT is set."""
        storage = self.connection.sdk.config_api.get_config().storage_config
        kind = storage.blockstore_type if storage else None
        prefix = settings.lakefs_storage_namespace or (storage.default_namespace_prefix if storage else None)
        if not settings.lakefs_endpoint or (not prefix and kind == "local"):
            return "local:/"
        if not prefix and settings.minio_bucket:
            prefix = f"s3://{settings.minio_bucket}"
        if not prefix:
            raise UsageError(
                tr(
                    "no storage for the new repository '{repo}': set LAKEFS_STORAGE_NAMESPACE=s3://BUCKET",
                    repo=self.connection.repo,
                )
            )
        if prefix.startswith("s3://") and settings.minio_endpoint:
            from utils import minio_utils

            minio_utils.ensure_bucket(settings, prefix.removeprefix("s3://").split("/")[0])
        prefix = prefix.rstrip("/")
        # A server with a local block store returns "local://", without a directory.
        return f"{prefix}/" if prefix.endswith(":") else prefix

    def create_branch(self, name: str, source: str, repo: str | None = None) -> bool:
        """Create a branch; return False if it exists already."""
        import lakefs_sdk
        from lakefs_sdk.exceptions import ApiException

        creation = lakefs_sdk.BranchCreation(name=Branch(name), source=Ref(source))
        try:
            self.connection.sdk.branches_api.create_branch(repo or self.connection.repo, creation)
        except ApiException as error:
            if error.status != 409:
                raise
            return False
        return True

    def delete_branch(self, name: str, repo: str | None = None) -> None:
        """Delete a branch; a missing one, perhaps deleted by a request whose response was lost, is not an error."""
        from lakefs_sdk.exceptions import NotFoundException

        with (
            self.connection.convert_errors(tr("deleting branch {name}", name=name)),
            contextlib.suppress(NotFoundException),
        ):
            self.connection.sdk.branches_api.delete_branch(repo or self.connection.repo, Branch(name))

    def require_experiment_name(self, branch: str) -> None:
        """Raise UsageError for a name that cannot be that of an experiment branch."""
        if branch == self.connection.branch or not re.fullmatch(r"\w[-\w]*", branch, re.ASCII):
            raise UsageError(
                tr(
                    "experiment branch '{branch}': expected letters, digits, '_' and '-', and a name other than {target}",
                    branch=branch,
                    target=self.connection.branch,
                )
            )

    def start_experiment(self, branch: str) -> None:
        """Publish to another branch from now on; create it from the target if it does not exist. Raises UsageError."""
        self.require_experiment_name(branch)
        with self.connection.convert_errors(tr("branch {branch}", branch=branch)):
            self.create_branch(branch, self.connection.branch)
        self.connection.branch = branch
        self.queries.head()  # fails if a tag of this name prevented the branch

    def protect(self) -> bool:
        """Protect the target branch from direct writes and commits; return False if it was protected already."""
        import lakefs_sdk

        with self.connection.convert_errors(tr("protecting {branch}", branch=self.connection.branch)):
            rules = self.connection.sdk.repositories_api.get_branch_protection_rules(self.connection.repo)
            if any(rule.pattern == self.connection.branch for rule in rules):
                return False
            rules = [*rules, lakefs_sdk.BranchProtectionRule(pattern=self.connection.branch)]
            self.connection.sdk.repositories_api.set_branch_protection_rules(self.connection.repo, rules)
            return True

    def set_tag(self, name: str, commit_id: str, repo: str | None = None) -> None:
        """Tag a commit; an existing tag on it is kept. Raises AppError for a name that is taken."""
        import lakefs_sdk
        from lakefs_sdk.exceptions import ApiException

        repo, name = repo or self.connection.repo, Tag(name)
        with self.connection.convert_errors(tr("tag {name}", name=name)):
            try:
                self.connection.sdk.tags_api.create_tag(repo, lakefs_sdk.TagCreation(id=name, ref=commit_id))
            except ApiException as error:
                if error.status != 409:
                    raise
                # An old id of a migrated commit is a tag: it must be resolved first.
                wanted = self.connection.sdk.commits_api.get_commit(repo, commit_id).id
                if self.connection.sdk.tags_api.get_tag(repo, name).commit_id != wanted:
                    raise

    def tag_with_metadata(self, name: str, source: LakePath, message: str, metadata: Mapping[str, str]) -> None:
        """Tag a new commit with the files of `source` and more metadata, as a commit itself never changes.

        The new commit is a child of `source`'s, and only the tag refers to it. An existing tag is kept. Raises TagConflict
        if it names something else.
        """
        import lakefs_sdk

        # An old id of a migrated commit is a tag: it must be resolved first.
        origin = LakePath(source.repo, self.queries.resolve(source.ref, source.repo), source.path)
        work = f"tag-{re.sub(r'[^A-Za-z0-9_-]', '-', name)}"[:200]
        existing = dict(self.queries.list_refs("tags", source.repo)).get(name)
        if existing is not None:
            if existing == origin.ref or self._find_child(origin, existing):
                self.delete_branch(work, origin.repo)
                return
            raise TagConflict(
                tr(
                    "the lakeFS tag {name} names another commit, {found} (expected {ref})",
                    name=name,
                    found=existing,
                    ref=source.ref,
                )
            )
        self.delete_branch(work, origin.repo)  # left by an interrupted call; it holds nothing else
        with self.connection.convert_errors(tr("tag {name}", name=name)):
            self.create_branch(work, origin.ref, origin.repo)
            creation = lakefs_sdk.CommitCreation(message=message, metadata=dict(metadata), allow_empty=True)
            commit_id = CommitId(self.connection.sdk.commits_api.commit(origin.repo, work, creation).id)
        self.set_tag(name, self._find_child(origin, commit_id) or commit_id, origin.repo)
        self.delete_branch(work, origin.repo)

    def _find_child(self, source: LakePath, commit_id: CommitId) -> CommitId | None:
        """Return the child of `source`'s commit behind `commit_id`: usually itself; a lost response may have added another.

        None if one of the commits in between does not hold the same files.
        """
        with self.connection.convert_errors(tr("commit {ref}", ref=source.ref[:12])):
            files = self.connection.sdk.commits_api.get_commit(source.repo, source.ref).meta_range_id
        for commit in self.queries.log(commit_id, repo=source.repo):
            if commit.meta_range_id != files:
                return None
            if source.ref in commit.parents:
                return commit.id
        return None

    def delete_tag(self, name: str) -> None:
        """Delete a tag. Raises AppError for a missing one."""
        from lakefs_sdk.exceptions import NotFoundException

        name = Tag(name)
        with self.connection.convert_errors(tr("deleting tag {name}", name=name)):
            self.connection.sdk.tags_api.get_tag(self.connection.repo, name)
            with contextlib.suppress(NotFoundException):  # of a repeated request whose first response was lost
                self.connection.sdk.tags_api.delete_tag(self.connection.repo, name)
