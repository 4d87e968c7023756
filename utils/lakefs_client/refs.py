"""The repository itself, its branches and tags: made, named, protected and deleted."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Mapping

from config import Settings
from core.errors import AppError, UsageError
from core.i18n import tr
from core.reporting import notify
from utils.lakefs_client.connection import LakePath
from utils.lakefs_client.queries import Reading


class TagTaken(AppError):
    """A tag that names another commit than the one that it is wanted for."""


class References(Reading):
    """Names for commits, and the place where they live."""

    def ensure_repository(self, settings: Settings) -> None:
        """Make the repository and the branch where they are missing; two processes may do so at once."""
        import lakefs_sdk
        from lakefs_sdk.exceptions import ApiException, NotFoundException

        with self.explained(tr("preparing the repository")):
            try:
                repository = self.sdk.repositories_api.get_repository(self.repo)
            except NotFoundException:
                namespace = f"{self._namespace_prefix(settings)}/{self.repo}/{uuid.uuid4().hex[:8]}"
                creation = lakefs_sdk.RepositoryCreation(
                    name=self.repo, storage_namespace=namespace, default_branch=self.branch
                )
                try:
                    repository = self.sdk.repositories_api.create_repository(creation)
                    notify(tr("made the lakeFS repository {repo}", repo=self.repo))
                except ApiException as error:
                    if error.status != 409:
                        raise
                    repository = self.sdk.repositories_api.get_repository(self.repo)
            if self.branch != repository.default_branch:
                self.create_branch(self.branch, repository.default_branch)

    def _namespace_prefix(self, settings: Settings) -> str:
        """Where a new repository's files go; makes the bucket where MinIO's settings are given."""
        storage = self.sdk.config_api.get_config().storage_config
        kind = storage.blockstore_type if storage else None
        prefix = settings.lakefs_storage_namespace or (storage.default_namespace_prefix if storage else None)
        if not settings.lakefs_endpoint or (not prefix and kind == "local"):
            return "local:/"
        if not prefix and settings.minio_bucket:
            prefix = f"s3://{settings.minio_bucket}"
        if not prefix:
            raise UsageError(
                tr("no place for the new repository '{repo}': set LAKEFS_STORAGE_NAMESPACE=s3://BUCKET", repo=self.repo)
            )
        if prefix.startswith("s3://") and settings.minio_endpoint:
            from utils import minio_utils

            minio_utils.ensure_bucket(settings, prefix.removeprefix("s3://").split("/")[0])
        prefix = prefix.rstrip("/")
        return f"{prefix}/" if prefix.endswith(":") else prefix  # a server over files names "local://", with no folder

    def create_branch(self, name: str, source: str, repo: str | None = None) -> bool:
        """Make a branch; one that is there already is taken as it is, and False returned."""
        import lakefs_sdk
        from lakefs_sdk.exceptions import ApiException

        try:
            self.sdk.branches_api.create_branch(repo or self.repo, lakefs_sdk.BranchCreation(name=name, source=source))
        except ApiException as error:
            if error.status != 409:
                raise
            return False
        return True

    def delete_branch(self, name: str, repo: str | None = None) -> None:
        """Delete a branch; one that is gone, perhaps by a first request whose answer was lost, is no error."""
        from lakefs_sdk.exceptions import NotFoundException

        with (
            self.explained(tr("deleting branch {name}", name=name)),
            contextlib.suppress(NotFoundException),
        ):
            self.sdk.branches_api.delete_branch(repo or self.repo, name)

    def start_experiment(self, branch: str) -> None:
        """Publish to another branch from now on, made from the target where it is not there. Raises UsageError."""
        if branch == self.branch or not re.fullmatch(r"\w[-\w]*", branch, re.ASCII):
            raise UsageError(
                tr(
                    "experiment branch '{branch}': expected letters, digits, '_', '-', and "
                    "another name than {self_branch}",
                    branch=branch,
                    self_branch=self.branch,
                )
            )
        with self.explained(tr("branch {branch}", branch=branch)):
            self.create_branch(branch, self.branch)
        self.branch = branch
        self.head()  # a tag of this name keeps a branch from being made

    def protect(self) -> bool:
        """Refuse direct writes and commits on the target branch, for everybody; False where it was so already."""
        import lakefs_sdk

        with self.explained(tr("protecting {branch}", branch=self.branch)):
            rules = self.sdk.repositories_api.get_branch_protection_rules(self.repo)
            if any(rule.pattern == self.branch for rule in rules):
                return False
            rules = [*rules, lakefs_sdk.BranchProtectionRule(pattern=self.branch)]
            self.sdk.repositories_api.set_branch_protection_rules(self.repo, rules)
            return True

    def set_tag(self, name: str, commit_id: str, repo: str | None = None) -> None:
        """Name a commit for good; no error where it has the name. Raises AppError for a name that is taken."""
        import lakefs_sdk
        from lakefs_sdk.exceptions import ApiException

        repo = repo or self.repo
        with self.explained(tr("tag {name}", name=name)):
            try:
                self.sdk.tags_api.create_tag(repo, lakefs_sdk.TagCreation(id=name, ref=commit_id))
            except ApiException as error:
                if error.status != 409:
                    raise
                wanted = self.sdk.commits_api.get_commit(repo, commit_id).id  # an old id leads to its copy
                if self.sdk.tags_api.get_tag(repo, name).commit_id != wanted:
                    raise

    def tag_with_metadata(self, name: str, source: LakePath, message: str, metadata: Mapping[str, str]) -> None:
        """Tag a commit of `source`'s own files that carries more metadata: a commit itself never changes.

        The new commit is a child of `source`'s and hangs on the tag alone. A tag that stands there already is left.
        Raises TagTaken where it names something else.
        """
        import lakefs_sdk

        origin = LakePath(source.repo, self.resolve(source.ref, source.repo), source.path)  # of an old id the copy
        work = f"tag-{re.sub(r'[^A-Za-z0-9_-]', '-', name)}"[:200]
        there = dict(self.list_refs("tags", source.repo)).get(name)
        if there is not None:
            if there == origin.ref or self._child(origin, there):
                self.delete_branch(work, origin.repo)
                return
            raise TagTaken(
                tr(
                    "the lakeFS tag {name} names another commit, {there} (expected {ref})",
                    name=name,
                    there=there,
                    ref=source.ref,
                )
            )
        self.delete_branch(work, origin.repo)  # left by a call that was cut off; it holds nothing of anybody's
        with self.explained(tr("tag {name}", name=name)):
            self.create_branch(work, origin.ref, origin.repo)
            creation = lakefs_sdk.CommitCreation(message=message, metadata=dict(metadata), allow_empty=True)
            commit = self.sdk.commits_api.commit(origin.repo, work, creation)
        self.set_tag(name, self._child(origin, commit.id) or commit.id, origin.repo)
        self.delete_branch(work, origin.repo)

    def _child(self, source: LakePath, commit_id: str) -> str | None:
        """The child of `source`'s commit behind `commit_id`: that itself, unless a lost answer made a second commit on it.

        None where a commit lies between, or is it, that does not hold the same files.
        """
        with self.explained(tr("commit {ref}", ref=source.ref[:12])):
            files = self.sdk.commits_api.get_commit(source.repo, source.ref).meta_range_id
        for commit in self.log(commit_id, repo=source.repo):
            if commit.meta_range_id != files:
                return None
            if source.ref in commit.parents:
                return str(commit.id)
        return None

    def delete_tag(self, name: str) -> None:
        """Raises AppError for a tag that is not there."""
        from lakefs_sdk.exceptions import NotFoundException

        with self.explained(tr("deleting tag {name}", name=name)):
            self.sdk.tags_api.get_tag(self.repo, name)
            with contextlib.suppress(NotFoundException):  # of a second request, where the first one's answer was lost
                self.sdk.tags_api.delete_tag(self.repo, name)
