"""`lake.py trace`: from any artifact to its whole chain. Every hash is computed again; no recorded one is trusted.

prediction -> registered version -> run -> model file and data in lakeFS -> code in Git. What each of them states about
the others must agree: a link that was changed contradicts the others and is reported.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from config import Settings
from core.console import format_table
from core.errors import AppError, ExitCode
from core.i18n import tr, trn
from core.reporting import notify, record, result
from core.safety.terminal import escape_line
from lineage.chain import Chain
from lineage.finder import Finder
from lineage.links import Link, mark_contradictions
from utils import mlflow_utils
from utils.identifiers import RunId
from utils.lakefs_utils import LakeFS, connect
from versioning.lockfile import explained_by_lock
from versioning.versions import LOCK, find_data

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_RUNS = 20  # runs that are followed from one commit of data


def trace(settings: Settings, lake: LakeFS, client: MlflowClient, target: str, long: bool = True) -> bool:
    """Report the chain that `target` belongs to; return whether none of its links is broken. Raises UsageError.

    `long`: with full ids and paths, not shortened to fit a terminal.
    """
    start, found = Finder(settings, lake, client).find(target)
    runs = [RunId(run) for run in found]  # some come from files and from metadata of commits
    if len(runs) > MAX_RUNS:
        notify(tr("{count} runs: following the newest {most}", count=len(runs), most=MAX_RUNS))
    chain, chains = Chain(settings, lake, client), list[list[Link]]()
    for run_id in runs[:MAX_RUNS]:
        links = [*start, *chain.links(run_id, start)]
        mark_contradictions(links)
        report(links, long)
        chains.append(links)
    intact = not any(link.faults for links in chains for link in links)
    record({"chains": [[_facts(link) for link in links] for links in chains], "ok": intact})
    return intact


def _facts(link: Link) -> dict[str, Any]:
    """Return a link for a program; kind and note are texts in the language of the console."""
    return {"kind": link.kind, "name": link.name, "note": link.note, "faults": link.faults, "ok": not link.faults}


def trace_command(settings: Settings, target: str, long: bool = False) -> int:
    """Trace a target with the servers of the settings; return the exit code: 1 if a link is broken."""
    with explained_by_lock(settings, AppError), connect(settings) as lake:
        lake.check()  # a server that is down is not a broken link of the chain
        if target == LOCK:  # nor is a lock whose store is elsewhere
            find_data(lake, LOCK)
        client = mlflow_utils.connect(settings, read_only=True)
        return ExitCode.DONE if trace(settings, lake, client, target, long) else ExitCode.FAILED


def report(links: list[Link], long: bool) -> None:
    """Report the chain as a table, and below it what is wrong with each link."""
    good, bad = tr("ok"), tr("BROKEN")
    rows = [
        (link.kind, link.name if long else shorten(link.name), bad if link.faults else good, link.note)
        for link in links
    ]
    result(format_table((tr("link"), tr("name"), tr("state"), ""), rows))
    for link in links:
        for fault in link.faults:
            result(escape_line(f"  {link.kind} {link.name}: {fault}"))
    broken = sum(bool(link.faults) for link in links)
    result(trn("{broken} of {count} link broken", "{broken} of {count} links broken", len(links), broken=broken))


def shorten(name: str) -> str:
    """Return the name of a link with ids of 8 characters, which the scripts accept, and without the repository."""
    path = re.sub(r"lakefs://[^/]+/(?=[0-9a-f]{64}(/|$))", "", name)
    return re.sub(r"(?<![0-9a-f])([0-9a-f]{8})(?:[0-9a-f]{24}|[0-9a-f]{32}|[0-9a-f]{56})(?![0-9a-f])", r"\1", path)
