"""Which version is in use, or why none is, and the commands that help.

People change aliases and versions in MLflow's page too. A version that they took out of use, and a challenger, are never
used in place of a missing champion: the user chooses.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.errors import UsageError
from core.i18n import tr
from registry.records import LINEAGE_TAGS, ROLLED_BACK, is_archived
from registry.versions import Registry
from utils.run_names import CHAMPION

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

SHOWN = 10  # versions in a message


@dataclass(frozen=True)
class RegistryState:
    """The registered model of the settings as it is now; `exists`: MLflow has an entry for it, with versions or without."""

    name: str
    exists: bool
    versions: list[ModelVersion]  # newest first
    aliases: dict[str, str]  # alias -> number

    @property
    def champion(self) -> ModelVersion | None:
        """The version in use; None if it is missing or cannot be used: see `problem`."""
        found = self.named_champion
        return found if found is not None and is_registered_here(found) and not is_archived(found) else None

    @property
    def named_champion(self) -> ModelVersion | None:
        """The version that the alias names, usable or not; None without an alias, or if the version was deleted."""
        number = self.aliases.get(CHAMPION)
        return next((version for version in self.versions if str(version.version) == number), None)

    def usable(self) -> list[ModelVersion]:
        """Return the versions that a person can make champion, newest first, archived ones last."""
        return sorted(filter(is_registered_here, self.versions), key=is_archived)

    def problem(self) -> str:
        """Return why there is no version in use."""
        number = self.aliases.get(CHAMPION)
        if number is None:
            return tr("{name} has no champion", name=self.name)
        version = self.named_champion
        if version is None:
            return tr("the champion of {name}, v{version}, was deleted", name=self.name, version=number)
        if is_archived(version):
            return tr("the champion of {name}, v{version}, is archived", name=self.name, version=number)
        return tr(
            "the champion of {name}, v{version}, was not registered by register_model.py",
            name=self.name,
            version=number,
        )

    def describe(self) -> str:
        """Return the versions with what is known of them, for a message."""
        shown = [f"{self.name}/{version.version}{self._remarks(version)}" for version in self.versions[:SHOWN]]
        return ", ".join([*shown, *(["…"] if len(self.versions) > SHOWN else [])]) or tr("none")

    def _remarks(self, version: ModelVersion) -> str:
        number = str(version.version)
        remarks = sorted(alias for alias, named in self.aliases.items() if named == number)
        remarks += [tr("rolled back")] if ROLLED_BACK in version.tags else []
        remarks += [tr("archived")] if is_archived(version) else []
        remarks += [] if is_registered_here(version) else [tr("not registered by register_model.py")]
        return f" ({', '.join(remarks)})" if remarks else ""

    def promotion_advice(self) -> str:
        """Return the command that makes a version champion which is not."""
        number = self.aliases.get(CHAMPION)
        others = [version for version in self.usable() if str(version.version) != number or is_archived(version)]
        if others:
            return f"python register_model.py --rollback {others[0].version}"
        blocked = any(str(version.version) == number for version in self.versions)  # nothing to compare with
        return "python register_model.py" + (" --force REASON" if blocked else "")

    def no_champion(self, reason: str | None = None) -> UsageError:
        """Return the error of a command that needs a champion, or of another `reason` why a version has to be named."""
        return UsageError(
            tr(
                "{problem} (available: {available}): make a version champion: {command}",
                problem=reason or self.problem(),
                available=self.describe(),
                command=self.promotion_advice(),
            )
        )

    def nothing_to_predict_with(self) -> UsageError:
        """Return the error of infer.py without a champion."""
        usable = self.usable()
        if not usable:
            return self.no_champion()
        return UsageError(
            tr(
                "{problem} (available: {available}): choose a version: {command}, or make it champion: {promotion}",
                problem=self.problem(),
                available=self.describe(),
                command=f"python infer.py --model {shlex.quote(f'{self.name}/{usable[0].version}')}",
                promotion=self.promotion_advice(),
            )
        )


def read_state(registry: Registry) -> RegistryState:
    """Read the registered model of the settings."""
    aliases = registry.find_aliases()
    return RegistryState(registry.name, aliases is not None, registry.versions(), aliases or {})


def is_registered_here(version: ModelVersion) -> bool:
    """Return whether a version has the tags by which its model is found and verified."""
    return all(version.tags.get(key) for key in LINEAGE_TAGS)
