"""The pickle of an archive, read as data: a small machine that knows what torch.save writes for plain values and tensors.

It calls no function and imports nothing. A tensor becomes a `StoredTensor`, which only says where its values lie.
"""

from __future__ import annotations

import dataclasses
import math
import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from core.i18n import tr
from segmentation.archive.entries import shown

MAX_DIMENSIONS = 8
MAX_KEY = 512  # characters of a key: the name of a tensor, of a class, of a setting
STORAGES = {
    f"torch {name}Storage": dtype
    for name, dtype in (
        *(("Float", torch.float32), ("Double", torch.float64), ("Half", torch.float16), ("BFloat16", torch.bfloat16)),
        *(("Long", torch.int64), ("Int", torch.int32), ("Short", torch.int16), ("Char", torch.int8)),
        *(("Byte", torch.uint8), ("Bool", torch.bool)),
    )
}
REBUILD, ORDERED_DICT = "torch._utils _rebuild_tensor_v2", "collections OrderedDict"


@dataclass(frozen=True)
class Limits:
    """What a pickle may have at most; the memory that it needs is a small multiple of its bytes."""

    size: int  # bytes of the pickle
    opcodes: int
    containers: int  # lists, tuples, dicts and tensors
    keys: int  # of one dict


MODEL_LIMITS = Limits(size=2 << 20, opcodes=500_000, containers=60_000, keys=20_000)  # about 8,000 tensors
# History and optimizer of a long training: 1,000 epochs of 255 classes, 3,000 tensors with their averages.
CHECKPOINT_LIMITS = Limits(size=16 << 20, opcodes=4_000_000, containers=500_000, keys=100_000)


@dataclass(frozen=True, slots=True)
class Storage:
    """Values of one type in the entry `data/<key>`."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A view of a storage, as torch.as_strided has it; checked to lie in the storage and to use no element twice."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Global:
    """A name that the pickle refers to; nothing is imported."""

    name: str


_MARK = object()


class _Machine:
    """Stack and memo of one pickle. Each method is an opcode; it raises ValueError, IndexError or KeyError."""

    def __init__(self, limits: Limits, size: int) -> None:
        # A container of torch.save has at least 20 bytes: a small pickle of many would only fill the memory.
        self.limits = dataclasses.replace(limits, containers=min(limits.containers, 20_000 + size // 20))
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.containers = 0

    def count_container(self) -> None:
        self.containers += 1
        if self.containers > self.limits.containers:
            raise ValueError(tr("more than {limit:,} lists, dicts and tensors", limit=self.limits.containers))

    def pop_to_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise ValueError(tr("a damaged pickle"))

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_container(self, value: Any) -> None:
        self.count_container()
        self.stack.append(value)

    def push_tuple(self, count: int | None) -> None:
        items = self.pop_to_mark() if count is None else [self.pop() for _ in range(count)][::-1]
        self.push_container(tuple(items))

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError(tr("a damaged pickle"))
        return value

    def put(self, index: int) -> None:
        if not 0 <= index < self.limits.opcodes or len(self.memo) > 2 * self.limits.containers:
            raise ValueError(tr("a damaged pickle"))
        self.memo[index] = self.stack[-1]

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise ValueError(tr("a damaged pickle"))
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise ValueError(tr("a damaged pickle"))
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_checked_key(key, self.limits.keys)] = value
        if len(target) > self.limits.keys:
            raise ValueError(tr("more than {limit:,} keys", limit=self.limits.keys))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        name = function.name if isinstance(function, _Global) else None
        if type(arguments) is not tuple:
            raise ValueError(tr("a damaged pickle"))
        if name == ORDERED_DICT and not arguments:
            return self.push_container({})
        if name == REBUILD:
            return self.push_container(_stored_tensor(arguments))
        raise ValueError(tr("a call of {name}", name=shown(name)))

    def build(self) -> None:
        """Leave out the attributes of a state dict, which only serve to read those of older layers."""
        self.pop()
        if type(self.stack[-1]) is not dict:
            raise ValueError(tr("a damaged pickle"))

    def find_global(self, name: str) -> None:
        if name not in (REBUILD, ORDERED_DICT) and name not in STORAGES:
            raise ValueError(tr("{name} is not part of a plain archive: nothing is executed", name=shown(name)))
        self.push(_Global(name))

    def find_storage(self) -> None:
        self.push_container(_storage(self.pop()))


_OPCODES: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda *_: None,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
        lambda machine, value: machine.push(value),
    ),
    "EMPTY_DICT": lambda machine, _: machine.push_container({}),
    "EMPTY_LIST": lambda machine, _: machine.push_container([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.push_tuple(1),
    "TUPLE2": lambda machine, _: machine.push_tuple(2),
    "TUPLE3": lambda machine, _: machine.push_tuple(3),
    "TUPLE": lambda machine, _: machine.push_tuple(None),
    "MARK": lambda machine, _: machine.push(_MARK),
    "APPEND": lambda machine, _: machine.extend([machine.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, index: machine.push(machine.memo[index])),
    "GLOBAL": _Machine.find_global,
    "BINPERSID": lambda machine, _: machine.find_storage(),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
}


def read_pickle(content: bytes, limits: Limits) -> Any:
    """Return the plain values of a pickle, with `StoredTensor` for tensors.

    Raises ValueError for anything but what torch.save writes for dicts, lists, tuples, texts, numbers, None and tensors.
    """
    if len(content) > limits.size:
        raise ValueError(
            tr("a pickle of {count:,} bytes, expected at most {limit:,}", count=len(content), limit=limits.size)
        )
    machine = _Machine(limits, len(content))
    try:
        for name, argument in _bounded_opcodes(content, limits.opcodes):
            run = _OPCODES.get(name)
            if run is None:
                raise ValueError(tr("a pickle with the opcode {name}, which torch.save does not write", name=name))
            run(machine, argument)
    except (IndexError, KeyError) as error:
        raise ValueError(tr("a damaged pickle")) from error
    if len(machine.stack) != 1:
        raise ValueError(tr("a damaged pickle"))
    return machine.stack[0]


def _bounded_opcodes(content: bytes, limit: int) -> Iterator[tuple[str, Any]]:
    """Yield (opcode, argument) up to STOP."""
    for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if number >= limit:
            raise ValueError(tr("more than {limit:,} opcodes", limit=limit))
        if opcode.name == "STOP":
            return
        yield opcode.name, argument


def _checked_key(key: Any, limit: int) -> str | int:
    """Return a key of a dict: a short text, or the number of a parameter. Others could be slow to hash, or collide."""
    if isinstance(key, str) and len(key) <= MAX_KEY:
        return key
    if type(key) is int and 0 <= key < limit:
        return key
    raise ValueError(tr("the key {key}, expected at most {limit} characters", key=shown(key), limit=MAX_KEY))


def _storage(identity: Any) -> Storage:
    """Return the storage of a persistent id: ('storage', type, key, location, number of elements)."""
    if type(identity) is not tuple or len(identity) != 5 or identity[0] != "storage":
        raise ValueError(tr("a damaged pickle"))
    _, kind, key, _, count = identity
    if not isinstance(kind, _Global) or kind.name not in STORAGES or not _is_count(count):
        raise ValueError(tr("a damaged pickle"))
    if type(key) is not str or not key.isascii() or not key.isdigit() or len(key) > 9:
        raise ValueError(tr("a damaged pickle"))
    return Storage(key, STORAGES[kind.name], count)


def _stored_tensor(arguments: tuple[Any, ...]) -> StoredTensor:
    """Return the tensor of _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)."""
    if not 6 <= len(arguments) <= 7 or arguments[5] or any(arguments[6:]):
        raise ValueError(tr("a damaged pickle"))
    storage, offset, size, stride = arguments[:4]
    if not isinstance(storage, Storage) or not _is_count(offset):
        raise ValueError(tr("a damaged pickle"))
    if type(size) is not tuple or type(stride) is not tuple or not len(size) == len(stride) <= MAX_DIMENSIONS:
        raise ValueError(tr("a damaged pickle"))
    if not all(map(_is_count, (*size, *stride))) or not _is_dense(storage.count, offset, size, stride):
        raise ValueError(
            tr("a tensor of the shape {shape} in {count:,} values", shape=shown(_shape(size)), count=storage.count)
        )
    return StoredTensor(storage, offset, size, stride)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


def _shape(size: tuple[Any, ...]) -> str:
    return "x".join(shown(side) for side in size)


def _is_dense(count: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Return whether a view lies in a storage of `count` values and has each of them at most once."""
    if math.prod(size) == 0:
        return offset <= count
    step = 0  # distance of the last value so far to the first one
    for distance, side in sorted((d, s) for d, s in zip(stride, size, strict=True) if s > 1):
        if distance <= step:
            return False
        step += distance * (side - 1)
    return offset + step < count
