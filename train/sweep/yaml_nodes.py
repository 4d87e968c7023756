"""Read a YAML file as nodes that know their line, so that every error names line and key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.command_line.parser import nearest
from core.errors import UsageError, one_line
from core.i18n import Message, tr

if TYPE_CHECKING:
    from yaml import Node

MAX_BYTES = 100_000
_NULL = "tag:yaml.org,2002:null"


@dataclass(frozen=True)
class Entry:
    """A value of the file with its place; scalars are read as text: `1e-4` is a string in YAML, but a number for us."""

    file: str
    key: str  # such as space.learning_rate.low; empty for the whole file
    line: int  # from 1
    node: Node

    def error(self, expected: str, found: object = None) -> UsageError:
        """Return the error for this value: place, what was expected, what was found."""
        shown = self.describe() if found is None else found
        problem = Message(tr("expected {expected}, found {found}", expected=Message(expected), found=shown))
        return self.problem(problem)

    def problem(self, problem: str) -> UsageError:
        """Return the error that states another problem at this place."""
        place = tr("{file}, line {line}", file=self.file, line=self.line)
        where = f"{place}: {self.key}" if self.key else place
        return UsageError(tr("{origin}: {problem}", origin=Message(where), problem=Message(problem)))

    def describe(self) -> str:
        """Return the value as a short text for errors."""
        import yaml

        if isinstance(self.node, yaml.ScalarNode):
            return one_line(repr(self.node.value), 60)
        return tr("a list") if isinstance(self.node, yaml.SequenceNode) else tr("keys with values")

    @property
    def is_null(self) -> bool:
        """Whether the value is missing, `null` or `~`."""
        return str(self.node.tag) == _NULL

    @property
    def is_list(self) -> bool:
        """Whether the value is a list."""
        import yaml

        return isinstance(self.node, yaml.SequenceNode)

    @property
    def is_mapping(self) -> bool:
        """Whether the value has keys."""
        import yaml

        return isinstance(self.node, yaml.MappingNode)

    def text(self, expected: str) -> str:
        """Return a scalar's text. Raises UsageError for a list, keys, or no value."""
        import yaml

        if not isinstance(self.node, yaml.ScalarNode) or self.is_null or not self.node.value.strip():
            raise self.error(expected)
        return str(self.node.value).strip()

    def items(self, expected: str) -> list[Entry]:
        """Return the entries of a list that is not empty. Raises UsageError."""
        import yaml

        if not isinstance(self.node, yaml.SequenceNode) or not self.node.value:
            raise self.error(expected)
        return [
            Entry(self.file, f"{self.key}[{number}]", node.start_mark.line + 1, node)
            for number, node in enumerate(self.node.value, 1)
        ]

    def keys(self, expected: str, known: Iterable[str] | None = None) -> dict[str, Entry]:
        """Return the entries by key. Raises UsageError for another value, a key twice, or one that is not `known`."""
        import yaml

        if not isinstance(self.node, yaml.MappingNode) or not self.node.value:
            raise self.error(expected)
        found: dict[str, Entry] = {}
        for key_node, node in self.node.value:
            name = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else ""
            path = f"{self.key}.{name}" if self.key else name
            entry = Entry(self.file, path, key_node.start_mark.line + 1, node)
            if name in found:
                raise entry.problem(tr("given twice, first in line {line}", line=found[name].line))
            if known is not None:
                entry.require_known(name, list(known))
            found[name] = entry
        return found

    def require_known(self, name: str, known: list[str]) -> None:
        """Raise UsageError for a key that does not exist, with the nearest one that does."""
        if name in known:
            return
        near = nearest(name, {text: text for text in known})
        hint = tr("did you mean {near}?", near=near) if near else tr("available: {known}", known=", ".join(known))
        raise self.problem(tr("unknown key: {hint}", hint=Message(hint)))


def read_yaml(path: Path) -> tuple[bytes, Entry]:
    """Return the file's content and its root. Raises UsageError for a file that is missing, not YAML, or has aliases.

    Only nodes are built, never objects.
    """
    import yaml

    try:
        content = path.read_bytes()
        if len(content) > MAX_BYTES:
            raise UsageError(tr("{path}: larger than {limit} bytes", path=path, limit=MAX_BYTES))
        events = list(yaml.parse(content.decode("utf-8"), Loader=yaml.SafeLoader))
        alias = next((event for event in events if isinstance(event, yaml.AliasEvent)), None)
        if alias is not None:  # a few nested ones expand to billions of values
            line = alias.start_mark.line + 1 if alias.start_mark is not None else 1
            raise UsageError(tr("{path}, line {line}: YAML aliases (*name) are not supported", path=path, line=line))
        root = yaml.compose(content.decode("utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(tr("{path}: not UTF-8 text", path=path)) from None
    except RecursionError:
        raise UsageError(tr("{path}: nested too deeply", path=path)) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else 1
        reason = getattr(error, "problem", None) or one_line(error, 200)
        raise UsageError(tr("{path}, line {line}: not YAML ({reason})", path=path, line=line, reason=reason)) from None
    if root is None:
        raise UsageError(tr("{path}: empty: expected keys such as trials and space", path=path))
    return content, Entry(str(path), "", root.start_mark.line + 1, root)
