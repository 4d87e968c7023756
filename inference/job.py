"""One call of infer.py: its options, and the model that they choose."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from config import ROOT, Settings
from core.errors import UsageError
from core.i18n import tr
from dataset.directory import OUTPUT_FOLDER
from utils.lineage import Lineage, Origin
from utils.servers import Servers


@dataclass(frozen=True)
class Job:
    """One call of infer.py with its model."""

    options: argparse.Namespace
    settings: Settings
    servers: Servers
    origin: Origin

    @property
    def lineage(self) -> Lineage:
        """The complete origin, for what needs a run. Raises UsageError for a model whose origin is not known."""
        if not isinstance(self.origin, Lineage):
            raise UsageError(
                tr(
                    "{file}: no record has its SHA-256, so that it has no place in lakeFS: choose the model of a run or "
                    "version (python register_model.py --list)",
                    file=self.origin.file,
                )
            )
        return self.origin

    @property
    def output(self) -> Path:
        """Directory that results are written to; by default that of the project, wherever its data is."""
        return Path(self.options.output or ROOT / "data" / OUTPUT_FOLDER)
