"""One link of a lineage chain, and the check that all links of a chain agree.

A link is one artifact: a prediction, a registered version, a run, a file or the data in lakeFS, the code in Git. It
holds what it states about the chain (`facts`) and what is wrong with itself (`faults`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from core.errors import UsageError
from core.i18n import tr
from inference.formats import EXPORT_FILES, export_sha256_tag
from utils.lakefs_utils import LakeFS, LakePath
from utils.lineage import INIT_KEYS

LINEAGE_KEYS = ("run_id", "lakefs_model_path", "model_sha256", "lakefs_data_path", "git_commit")  # in every record
MODEL_METRICS = ("best_val_miou", "best_val_accuracy")
OOF_METRICS = ("oof_miou", "oof_accuracy")  # of a run with folds, instead of those above
# Only where there is a test split, and not of older versions; only with folds.
CALIBRATION_METRICS = ("temperature", "val_ece", "val_ece_uncalibrated", "test_ece", "test_ece_uncalibrated")
OPTIONAL_METRICS = ("test_miou", "test_accuracy", *OOF_METRICS, *CALIBRATION_METRICS)

# What links state about the chain: key of a tag, of commit metadata or of a record -> value as text. The set of keys
# differs by kind of link and grows with each stored record, and only equality matters: strings, so that a value of
# MLflow, of lakeFS and of a JSON file compare without knowing their types.
Facts = dict[str, str]
MEMBER_FACT = ".pth_sha256"  # end of the facts that `member_fact` returns


@dataclass
class Link:
    """One artifact of the chain."""

    kind: str
    name: str
    note: str = ""
    facts: Facts = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    rehashed: bool = False  # it is stored in lakeFS, and all its bytes were hashed again
    export: str | None = None  # kind of export (key of EXPORT_FILES) that it is, or was predicted with


def mark_contradictions(links: list[Link]) -> None:
    """Add a fault to each link that states another value of a fact than the majority of the links that state it.

    With equal counts, the value that a rehashed link without faults states is taken as right: files and commits in
    lakeFS. The majority is only used to decide which link is named; any disagreement is a fault.
    """
    trusted = {id(link) for link in links if link.rehashed and not link.faults}
    for fact in sorted({fact for link in links for fact in link.facts}):
        stated = [(link, link.facts[fact]) for link in links if fact in link.facts]
        values = [value for _, value in stated]
        trusted_values = {value for link, value in stated if id(link) in trusted}
        usual = max(values, key=lambda value: (values.count(value), value in trusted_values))
        others = ", ".join(link.kind for link, value in stated if value == usual)
        for link, value in stated:
            if value != usual:
                link.faults.append(
                    tr(
                        "{fact}: says {value}, but others ({others}) say {usual}",
                        fact=fact,
                        value=value,
                        others=others,
                        usual=usual,
                    )
                )


def format_metric(value: object) -> str:
    """Return a metric as all links write it: exact; 'none' if it is missing, NaN or infinite."""
    number = float(value) if isinstance(value, int | float) and abs(value) < 1e308 else math.nan
    return repr(number) if abs(number) < 1e308 else "none"  # MLflow turns infinity into the largest number


def member_fact(file: str) -> str:
    """Return the fact that the SHA-256 of a member of an ensemble is."""
    return f"{file}_sha256"  # file names of members end with .pth, see MEMBER_FACT


def name_members(links: Iterable[Link], of_model: Iterable[Link]) -> None:
    """Where a link states the hash of a member of the chain's ensemble as that of its model, state it as that member's."""
    facts = {fact: value for link in of_model for fact, value in link.facts.items() if fact.endswith(MEMBER_FACT)}
    members = {sha256: fact for fact, sha256 in facts.items()}
    for link in links:
        fact = members.get(link.facts.get("model_sha256", ""))
        if fact is not None:
            link.facts[fact] = link.facts.pop("model_sha256")
            text = tr("one member of the ensemble: {file}", file=fact.removesuffix("_sha256"))
            link.note = f"{link.note}, {text}" if link.note else text


def hash_mismatch(name: str, expected: str, found: str) -> str:
    """Return the message for a file or record with another SHA-256 than expected."""
    return tr("{name}: SHA-256 expected {expected}, found {found}", name=name, expected=expected, found=found)


def commit_facts(metadata: Mapping[str, str]) -> Facts:
    """Return what the metadata of a commit state.

    The Git keys of an export are left out: they name the code that exported, which is not part of the chain.
    """
    exported = any(export_sha256_tag(kind) in metadata for kind in EXPORT_FILES)
    keys = [key for key in (*LINEAGE_KEYS, *INIT_KEYS, "git_dirty") if not (exported and key.startswith("git_"))]
    facts = dict(metadata)
    if "mlflow_run_id" in metadata:
        facts["run_id"] = metadata["mlflow_run_id"]
    return {key: facts[key] for key in keys if key in facts}


def is_tag_of(lake: LakeFS, commit: str, path: LakePath) -> bool:
    """Return whether a tag's commit is that of `path`, or a child of it that only adds metadata.

    The commit id of `path` may be one from before the history was copied to another server.
    """
    try:
        wanted = lake.resolve(path.ref, path.repo)
    except UsageError:  # the server does not know it
        return False
    return wanted in (commit, *lake.commit(commit, path.repo).parents)
