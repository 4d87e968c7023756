"""Read an archive of torch.save into plain values and tensors, after everything in it was compared with the file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import torch
from torch import Tensor

from core.errors import one_line
from core.i18n import tr
from segmentation.archive.entries import PICKLE, Entries, read_entries, shown
from segmentation.archive.pickled import Limits, Storage, StoredTensor, read_pickle

MAX_DEPTH = 24  # of lists and dicts in each other
ALIASES = 2  # times the bytes of all storages that all tensors together may have: a tied weight is saved once


def read_archive(stream: BinaryIO, limits: Limits) -> dict[str, Any]:
    """Return the dict that torch.save wrote: plain values and tensors on the CPU.

    Nothing is executed, and no tensor is allocated before it was found in the file with its full size. Raises ValueError
    for anything else.
    """
    entries = read_entries(stream)
    if entries.size(PICKLE) > limits.size:
        raise ValueError(
            tr("a pickle of {count:,} bytes, expected at most {limit:,}", count=entries.size(PICKLE), limit=limits.size)
        )
    if "byteorder" in entries and (entries.size("byteorder") > 8 or entries.read("byteorder") != b"little"):
        raise ValueError(tr("the values are big-endian"))
    content = read_pickle(entries.read(PICKLE), limits)
    tree = _Tree(2 * limits.opcodes, 2 * limits.containers)
    tree.check(content, 0)
    if type(content) is not dict:
        raise ValueError(tr("{found}, expected a dict", found=shown(content)))
    _require_storages(entries, tree.tensors)
    built: dict[str, Any] = _Builder(entries).build(content)
    return built


@dataclass
class _Tree:
    """Counts what is reached from the top, a value that occurs in several places each time."""

    limit: int  # of values
    container_limit: int
    values: int = 0
    containers: int = 0
    tensors: list[StoredTensor] = field(default_factory=list)

    def check(self, value: Any, depth: int) -> None:
        """Count a value and those in it. Raises ValueError if they are too many, or nested too deeply, as in a cycle."""
        self.values += 1
        if self.values > self.limit:
            raise ValueError(tr("more than {limit:,} values", limit=self.limit))
        if type(value) is StoredTensor:
            self.tensors.append(value)
        elif type(value) in (dict, list, tuple):
            self.enter(depth)
            for part in value.values() if type(value) is dict else value:
                self.check(part, depth + 1)
        elif value is not None and type(value) not in (bool, int, float, str):
            raise ValueError(tr("a damaged pickle"))

    def enter(self, depth: int) -> None:
        """Count a list or dict."""
        self.containers += 1
        if self.containers > self.container_limit:
            raise ValueError(tr("more than {limit:,} lists, dicts and tensors", limit=self.container_limit))
        if depth >= MAX_DEPTH:
            raise ValueError(tr("nested more than {limit} levels deep", limit=MAX_DEPTH))


def _require_storages(entries: Entries, tensors: list[StoredTensor]) -> None:
    """Compare the storages and tensors with the entries. Raises ValueError."""
    storages = {tensor.storage for tensor in tensors}
    for storage in storages:
        name, claimed = _entry_of(storage), storage.count * storage.dtype.itemsize
        found = entries.size(name) if name in entries else 0
        if claimed != found:
            raise ValueError(
                tr(
                    "tensor {name}: {claimed:,} bytes claimed, {found:,} in the file",
                    name=name,
                    claimed=claimed,
                    found=found,
                )
            )
    in_file = sum(entries.size(name) for name in {_entry_of(storage) for storage in storages})
    claimed = sum(math.prod(tensor.size) * tensor.storage.dtype.itemsize for tensor in tensors)
    if claimed > ALIASES * in_file:
        raise ValueError(
            tr("all tensors: {claimed:,} bytes claimed, {found:,} in the file", claimed=claimed, found=in_file)
        )


def _entry_of(storage: Storage) -> str:
    return f"data/{storage.key}"


class _Builder:
    """Replaces the stored tensors of a tree by tensors; those of one storage share it, as they did when saved."""

    def __init__(self, entries: Entries) -> None:
        self.entries = entries
        self.storages: dict[str, Tensor] = {}  # key -> bytes (N,) uint8

    def build(self, value: Any) -> Any:
        """Return the value with tensors."""
        if type(value) is StoredTensor:
            values = self._bytes(value.storage).view(value.storage.dtype)
            return values.as_strided(value.size, value.stride, value.offset)
        if type(value) is dict:
            return {key: self.build(part) for key, part in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self.build(part) for part in value)
        return value

    def _bytes(self, storage: Storage) -> Tensor:
        if storage.key not in self.storages:
            name = _entry_of(storage)
            flat = torch.empty(self.entries.size(name), dtype=torch.uint8)
            self.entries.read_into(name, flat.numpy())
            if storage.dtype == torch.bool and flat.numel() and int(flat.max()) > 1:
                raise ValueError(tr("tensor {name}: neither true nor false", name=name))
            self.storages[storage.key] = flat
        return self.storages[storage.key]


def reason_of(error: Exception) -> str:
    """Return why an archive could not be read, on one line."""
    return one_line(error if type(error) is ValueError else f"{type(error).__name__}: {error}", 300)
