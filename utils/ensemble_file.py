"""ensemble.json: several model files that predict together, as train.py --folds makes them.

The file names its members, which are beside it, with their SHA-256: whoever knows the hash of ensemble.json knows theirs.
It is recorded, locked, registered and signed in the place of model.pth, by one path and one hash.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from core.errors import AppError
from core.files import read_regular
from core.hashing import file_sha256
from core.i18n import mark, tr
from core.safety.json_object import JsonObject
from core.safety.terminal import escape_line
from utils.identifiers import InvalidValue, Sha256

ENSEMBLE_FILE = "ensemble.json"
MODEL_FILE_KEY = "model_file"  # of the metadata of a model's commit: the file's name, if it is not model.pth
FORMAT = 1
MAX_MEMBERS = 100
MEMBERS = mark("number of members")
MAX_BYTES = 64 << 20  # of ensemble.json, which names each held-out image: about a million of them
KEYS, MEMBER_KEYS = frozenset({"format", "members"}), frozenset({"file", "sha256", "held_out"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}\.pth")


@dataclass(frozen=True)
class Member:
    """A model file beside ensemble.json: its name, such as `fold-1.pth`, and its SHA-256 (hex).

    `held_out`: SHA-256 (hex) of image files that neither this model nor the ones that it started from were trained on.
    Raises InvalidValue for a name that is not a plain one, and for a hash of another form.
    """

    file: str
    sha256: str
    held_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.file):
            expected = tr("letters, digits, '_' and '-' followed by .pth, without a directory")
            raise InvalidValue(mark("file of a member"), expected, self.file)
        for value in (self.sha256, *self.held_out):
            Sha256(value)


@dataclass(frozen=True)
class Ensemble:
    """The content of ensemble.json: 1 to 100 members with different names. Raises InvalidValue for other ones."""

    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.members) <= MAX_MEMBERS:
            expected = tr("1 to {count} members", count=MAX_MEMBERS)
            raise InvalidValue(MEMBERS, expected, len(self.members))
        names = [member.file.lower() for member in self.members]  # many file systems do not tell cases apart
        twice = next((m.file for m in self.members if names.count(m.file.lower()) > 1), None)
        if twice is not None:
            raise InvalidValue(mark("file of a member"), tr("each member once"), twice)

    def to_json(self) -> bytes:
        """Return the canonical text: equal for equal ensembles, whatever the order in which held-out images were found."""
        members = [{"file": m.file, "held_out": sorted(set(m.held_out)), "sha256": m.sha256} for m in self.members]
        text = json.dumps({"format": FORMAT, "members": members}, sort_keys=True, separators=(",", ":"))
        return text.encode() + b"\n"


def is_ensemble(path: PurePath | str) -> bool:
    """Return whether a path, local or in lakeFS, is that of an ensemble: its name decides."""
    return (PurePosixPath(path) if isinstance(path, str) else path).name == ENSEMBLE_FILE


def parse_ensemble(content: bytes, where: object) -> Ensemble:
    """Return the ensemble of a file's content. Raises AppError, in one line, for anything else."""
    fix = tr("write it again with train.py --folds")
    if len(content) > MAX_BYTES:
        message = tr("{path}: larger than {limit:,} bytes: {fix}", path=where, limit=MAX_BYTES, fix=fix)
        raise AppError(escape_line(message))
    found = JsonObject.parse(content, where, fix)
    if found.content.get("format") != FORMAT or type(found.content["format"]) is not int:
        raise found.invalid("format", str(FORMAT))
    _reject_unknown(found, KEYS)
    if len(found.items("members")) > MAX_MEMBERS:
        expected, count = tr("1 to {count} members", count=MAX_MEMBERS), len(found.items("members"))
        raise AppError(escape_line(f"{where}: {InvalidValue(MEMBERS, expected, count)}"))
    try:
        return Ensemble(tuple(_parse_member(entry) for entry in found.objects("members")))
    except InvalidValue as error:
        raise AppError(escape_line(f"{where}: {error}")) from error


def _parse_member(entry: JsonObject) -> Member:
    _reject_unknown(entry, MEMBER_KEYS)
    try:
        return Member(entry.text("file"), entry.text("sha256"), entry.texts("held_out"))
    except InvalidValue as error:
        raise AppError(escape_line(f"{entry.where}: {error}")) from error


def _reject_unknown(found: JsonObject, known: frozenset[str]) -> None:
    unknown = next((name for name in found.content if name not in known), None)
    if unknown is not None:
        raise found.invalid(unknown[:60], tr("only {names}", names=", ".join(sorted(known))))


def read_ensemble(path: Path) -> Ensemble:
    """Return the ensemble of a local file. Raises AppError for one that cannot be read, and for another content."""
    try:
        content = read_regular(path)
    except OSError as error:
        raise AppError(escape_line(f"{path}: {error.strerror or error}")) from error
    return parse_ensemble(content, path)


def member_files(path: Path, ensemble: Ensemble) -> list[tuple[Member, Path]]:
    """Return the members of a local ensemble with their files, which are beside it. Raises AppError for a missing one."""
    found = [(member, path.with_name(member.file)) for member in ensemble.members]
    missing = next((file for _, file in found if not file.is_file()), None)
    if missing is not None:
        raise AppError(
            escape_line(tr("{path}: its member {file} is missing: it must be beside it", path=path, file=missing))
        )
    return found


def parts_of_model(file: Path, sha256: str) -> dict[Path, str]:
    """Return the files that a local model consists of, with the SHA-256 that each must have.

    These are the file itself and, if it is an ensemble with this SHA-256, its members.
    """
    parts = {file: sha256}
    if is_ensemble(file) and file.is_file() and file_sha256(file) == sha256:
        parts |= {file.with_name(member.file): member.sha256 for member in read_ensemble(file).members}
    return parts


def first_changed(file: Path, sha256: str) -> Path | None:
    """Return the first file of a local model that is missing or has another SHA-256; None for an intact model."""
    parts = parts_of_model(file, sha256)
    return next((part for part, wanted in parts.items() if not part.is_file() or file_sha256(part) != wanted), None)


def working_copy(model_path: Path, recorded: str) -> Path:
    """Return where the local copy of a model in lakeFS is: MODEL_PATH, or ensemble.json in its directory."""
    return model_path.with_name(ENSEMBLE_FILE) if is_ensemble(recorded) else model_path


def is_member(file: Path) -> bool:
    """Return whether an ensemble.json beside a local file names it; the content may have changed."""
    ensemble = file.with_name(ENSEMBLE_FILE)
    if not ensemble.is_file() or is_ensemble(file):
        return False
    return any(member.file == file.name for member in read_ensemble(ensemble).members)
