"""Choose a model by any name that a person knows: `lock`, a tag, a version, an alias, a run.

The rule, for a name that several things have:

1. `lock` is the model of lakefs.lock, and `tag:NAME` a tag of Git or lakeFS.
2. A name of the form v1.0-acc85 is a tag, if there is one.
3. NAME/2, NAME@alias and a full run ID are what they say; everything else is looked up as version, alias, tag and
   beginning of a run ID. What belongs to one run is one meaning; several are an error that lists how to write each.

`lake.py trace` follows the same rule, and knows commits and files besides.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from config import ROOT
from core import git
from core.errors import AppError, UsageError, one_line
from core.i18n import tr
from core.provenance.code_files import LOCK_NAME
from core.reporting import warn
from utils import run_names
from utils.ensemble_file import MODEL_FILE_KEY
from utils.identifiers import NONE, InvalidValue, RunId, Tag
from utils.lakefs_utils import LakeFS, LakePath
from utils.lineage import Lineage
from utils.run_names import Named
from utils.servers import Servers
from versioning.lockfile import Lock, parse_lock, read_lock, require_lock
from versioning.versions import LOCK, MODEL_PREFIX

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

RESULT_TAG = re.compile(r"v(\d+)\.(\d+)-(?:acc\d+|initial)")
TAG_PREFIX = "tag:"  # no tag and no registered model has a colon in its name
RUN_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
MODEL_NAME = "model.pth"  # of the file in a model's commit that does not state another name


class NoModel(UsageError):
    """Tag that exists and names no model."""


@dataclass(frozen=True)
class Choice:
    """A model that was named; `lineage` is known where the name itself determines it: of lakefs.lock and of tags."""

    spelling: str  # the name that means nothing else
    run_id: str
    version: ModelVersion | None = None
    lineage: Lineage | None = None

    def label(self, text: str) -> str:
        """Return what was chosen by which name, for records."""
        return self.spelling if text == self.spelling else f"{self.spelling} ({text})"


def resolve_model(servers: Servers, text: str) -> Choice:
    """Return the model that a person names. Raises UsageError for an unknown name, and for one with several meanings."""
    found = find_models(servers, text)
    if not found:
        raise _unknown(servers, text)
    return _only(found, text)


def resolve_run(servers: Servers, text: str) -> str:
    """Return the run that a person names, by itself or by its version, tag or lock. Raises UsageError likewise."""
    found = find_models(servers, text)
    if not found:
        raise _unknown(servers, text, run=True)
    return _only(found, text).run_id


def _only(found: Sequence[Choice], text: str) -> Choice:
    """Return the only meaning of a name. Raises UsageError that lists how to write each of several."""
    if len(found) > 1:
        raise run_names.ambiguous(text, [choice.spelling for choice in found])
    return found[0]


def find_models(servers: Servers, text: str) -> list[Choice]:
    """Return every model that a name can mean by the rule of this module. Raises NoModel for a tag without a model."""
    if text == LOCK:
        return [lock_choice(require_lock(ROOT))]
    named, tag_name = find_meanings(servers, text)
    choices = [Choice(one.label, one.run_id, one.version) for one in named]
    tag = None if tag_name is None else _find_tag_beside(servers, tag_name, bool(named))
    return choices + ([tag] if tag is not None and all(tag.run_id != one.run_id for one in named) else [])


def find_meanings(servers: Servers, text: str) -> tuple[list[Named], str | None]:
    """Return the runs and versions, and the tag of Git or lakeFS, that a name can mean by the rule of this module."""
    if text.startswith(TAG_PREFIX):
        name = text.removeprefix(TAG_PREFIX)
        return [], name if is_tag(servers, name) else None
    if RESULT_TAG.fullmatch(text) and is_tag(servers, text):
        return [], text
    named = run_names.find_named(servers.client, servers.settings, text)
    if run_names.QUALIFIED.fullmatch(text) or RunId.accepts(text.lower()):
        return named, None
    with _tags_optional(text, bool(named)):
        return named, text if is_tag(servers, text) else None
    return named, None


def is_tag(servers: Servers, name: str) -> bool:
    """Return whether Git or lakeFS has a tag of this name; lakeFS is asked only if Git has none."""
    if not Tag.accepts(name):
        return False
    if name in git.list_tags(ROOT):
        return True
    lake = servers.lake
    return lake.has_repository() and name in dict(lake.list_refs("tags"))


@contextlib.contextmanager
def _tags_optional(text: str, named: bool) -> Iterator[None]:
    """Let a name that has a meaning already do without its tags: warn where they cannot be read."""
    try:
        yield
    except UsageError:
        raise
    except AppError as error:
        if not named:
            raise
        warn(tr("tags of lakeFS not checked for the name '{text}': {error}", text=text, error=error))


def _find_tag_beside(servers: Servers, text: str, named: bool) -> Choice | None:
    """Return the tag of this name; for a name that has a meaning already, a tag that cannot be read is no other one."""
    with _tags_optional(text, named):
        try:
            return find_tag(servers, text)
        except NoModel:
            if not named:
                raise
    return None


# --- lakefs.lock ------------------------------------------------------------------------------------------------------------


def lock_choice(lock: Lock, spelling: str = LOCK) -> Choice:
    """Return the model of a lock. The Git commit of its training is in the model file."""
    lineage = Lineage(lock.run_id, None, lock.model, lock.model_sha256, lock.data, NONE, {})
    return Choice(spelling, lock.run_id, lineage=lineage)


# --- tags ---------------------------------------------------------------------------------------------------------------------


def find_tag(servers: Servers, name: str) -> Choice | None:
    """Return the model of a tag of Git (by its lakefs.lock) or lakeFS; None if there is no such tag.

    Raises NoModel for a tag of code or data only, UsageError if Git and lakeFS, or lock and message, name different models.
    """
    lock, in_git = _lock_of_tag(name), name in git.list_tags(ROOT)
    lake = servers.lake
    commits = dict(lake.list_refs("tags")) if Tag.accepts(name) and lake.has_repository() else {}
    tagged = _tagged_model(servers, name, commits[name]) if name in commits else None
    spelling = f"{TAG_PREFIX}{name}"
    if lock is None:
        if tagged is None and (in_git or name in commits):
            raise NoModel(
                tr(
                    "tag {name} names no model: in Git it has no {lock_name}, and in lakeFS no model is tagged with it",
                    name=name,
                    lock_name=LOCK_NAME,
                )
            )
        return None if tagged is None else Choice(spelling, tagged.run_id, lineage=tagged)
    if tagged is not None and tagged.model_sha256 != lock.model_sha256:
        raise UsageError(
            tr(
                "tag {name}: its {lock_name} in Git names the model of run {lock_run}, the tag in lakeFS that of run "
                "{lake_run}: name one of the runs",
                name=name,
                lock_name=LOCK_NAME,
                lock_run=lock.run_id,
                lake_run=tagged.run_id,
            )
        )
    return lock_choice(lock, spelling)


def _lock_of_tag(name: str) -> Lock | None:
    """Return lakefs.lock of a Git tag; None without tag or lock. Raises UsageError if the tag's message names another run.

    This is what a tag is that was made before the commit of the lock.
    """
    if not Tag.accepts(name) or name not in git.list_tags(ROOT):
        return None
    text = git.show_file(ROOT, f"refs/tags/{name}:./{LOCK_NAME}")
    if text is None:
        return None
    lock = parse_lock(text, f"{name}:{LOCK_NAME}")
    stated = RUN_ID.findall(git.tag_message(ROOT, name))
    if stated and lock.run_id not in stated:
        raise UsageError(
            tr(
                "tag {name}: its message names run {stated}, but its {lock_name} run {lock_run}: the tag was made before "
                "{lock_name} was committed: name one of the runs",
                name=name,
                stated=stated[0],
                lock_name=LOCK_NAME,
                lock_run=lock.run_id,
            )
        )
    return lock


def _tagged_model(servers: Servers, name: str, commit: str) -> Lineage | None:
    """Return the model whose commit has a lakeFS tag, by the metadata of the commit; None for a commit of data."""
    repo = servers.lake.repo
    recorded = servers.lake.commit_metadata(commit, repo)
    needed = ("mlflow_run_id", "model_sha256", "lakefs_data_path")
    if any(key not in recorded for key in needed):
        return None
    name = recorded.get(MODEL_FILE_KEY, MODEL_NAME)
    path = recorded.get("lakefs_model_path") or str(LakePath(repo, commit, f"{MODEL_PREFIX}{name}"))
    try:
        return Lineage(
            run_id=recorded["mlflow_run_id"],
            version=None,
            model_path=LakePath.parse_recorded(path),
            model_sha256=recorded["model_sha256"],
            data_path=LakePath.parse_recorded(recorded["lakefs_data_path"]),
            git_commit=recorded.get("git_commit", NONE),
            metrics={},
        )
    except InvalidValue as error:
        raise UsageError(tr("lakeFS tag {name}: {reason}", name=name, reason=one_line(error, 400))) from error


# --- messages ------------------------------------------------------------------------------------------------------------------


def known_tags(lake: LakeFS) -> list[str]:
    """Return the tags of Git and of lakeFS, each once; a repository that does not exist has none."""
    in_lakefs = lake.list_refs("tags") if lake.has_repository() else ()
    return list(dict.fromkeys([*git.list_tags(ROOT), *dict(in_lakefs)]))


def _unknown(servers: Servers, text: str, run: bool = False) -> UsageError:
    """Return the error for a name that no model, or no `run`, has: what there is, and the nearest of it."""
    versions = run_names.registered_names(servers.client, servers.settings)
    tags = known_tags(servers.lake)
    lock = read_lock(ROOT)
    fields = {
        "text": one_line(text, 80),
        "hint": run_names.nearest(text, [*versions, *tags, *([LOCK] if lock else [])]),
        "versions": run_names.abbreviated(list(versions.values())) or tr("none"),
        "tags": run_names.abbreviated(sorted(tags, key=_result_first)) or tr("none"),
        "lock": tr("lock: run {run_id}", run_id=lock.run_id) if lock else tr("no {lock_name}", lock_name=LOCK_NAME),
        "count": run_names.MIN_PREFIX,
    }
    if run:
        return UsageError(
            tr(
                "'{text}' does not name a run{hint} (expected at least {count} characters of a run ID, a version: {versions}; "
                "a tag: {tags}; or {lock})",
                **fields,
            )
        )
    return UsageError(
        tr(
            "'{text}' is not a model{hint} (versions: {versions}; tags: {tags}; {lock}; or a run by at least {count} "
            "characters of its ID, or a model file)",
            **fields,
        )
    )


def _result_first(tag: str) -> bool:
    return RESULT_TAG.fullmatch(tag) is None
