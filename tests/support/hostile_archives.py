"""Hostile model files, made by hand: each archive of torch.save differs from a good one in one way."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from segmentation.model_file import save_model
from tests.support.models import make_model

Entries = dict[str, bytes]
GB5 = 5_000_000_000


def good_entries(folder: Path) -> Entries:
    """Return the entries of a good model file."""
    save_model(folder / "good.pth", make_model())
    with zipfile.ZipFile(folder / "good.pth") as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def pack(entries: Entries, method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive of the entries."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def text(value: str) -> bytes:
    """Return the opcode that pushes a text."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def whole(value: int) -> bytes:
    """Return the opcode that pushes a whole number."""
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def call(name: str, arguments: bytes) -> bytes:
    """Return the opcodes that call 'module name' with arguments."""
    return b"c" + name.replace(" ", "\n").encode() + b"\n(" + arguments + b"tR"


def storage(key: str, count: int, kind: str = "FloatStorage") -> bytes:
    """Return the opcodes of a storage of torch."""
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + whole(count) + b"tQ"


def tensor(key: str, count: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """Return the opcodes of a tensor in a storage."""
    sides, steps = (b"(" + b"".join(map(whole, values)) + b"t" for values in (size, stride))
    hooks = b"ccollections\nOrderedDict\n)R"
    arguments = storage(key, count) + whole(offset) + sides + steps + b"\x89" + hooks
    return call("torch._utils _rebuild_tensor_v2", arguments)


def content(value: bytes, key: str = "metrics") -> bytes:
    """Return a pickle of a dict in which one value is these opcodes."""
    return b"\x80\x02}(" + text("format") + b"K\x01" + text(key) + value + b"u."


def archives(good: Entries) -> Iterator[tuple[str, bytes]]:
    """Yield (name, file) of everything that is wrong in the zip layer."""
    whole_file = pack(good)
    yield "empty", b""
    yield "text", b"junk"
    yield "only the start", b"PK\x03\x04"
    for part in (10, 1000, len(whole_file) // 2, len(whole_file) - 30, len(whole_file) - 1):
        yield f"first {part} bytes", whole_file[:part]
    yield "pickle", pickle.dumps({"format": 1})
    yield "old format of torch", _old_format()
    yield "compressed", pack(good, zipfile.ZIP_DEFLATED)
    yield "lzma", pack(good, zipfile.ZIP_LZMA)
    yield "compressed bomb", pack(good | {"archive/data/0": bytes(1 << 26)}, zipfile.ZIP_DEFLATED)
    yield "no pickle", pack({k: v for k, v in good.items() if not k.endswith("data.pkl")})
    yield "no directory", pack({k.rpartition("/")[2]: v for k, v in good.items()})
    yield "two directories", pack(good | {"other/data.pkl": b"N."})
    yield "directory entry", pack(good | {"archive/data/": b""})
    yield "climbing", pack(good | {"../../evil": b"x"})
    yield "100,000 entries", pack({"archive/data.pkl": b"N."} | {f"archive/data/{i}": b"" for i in range(100_000)})
    yield "big-endian", pack(good | {"archive/byteorder": b"big"})
    yield "missing tensor", pack({k: v for k, v in good.items() if k != "archive/data/0"})
    yield "short tensor", pack(good | {"archive/data/0": good["archive/data/0"][:-4]})
    yield "long tensor", pack(good | {"archive/data/0": good["archive/data/0"] + b"0000"})
    last = whole_file.rindex(b"PK\x01\x02")
    for name, place, value in (
        ("encrypted", 8, b"\x01\x00"),
        ("4 GB declared", 20, struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)),
        ("entry behind the end", 42, struct.pack("<I", len(whole_file) - 4)),
        ("overlapping entries", 42, struct.pack("<I", 0)),
        ("other checksum", 16, b"\0\0\0\0"),
        ("other size", 20, struct.pack("<II", 0, 0)),
    ):
        first = whole_file.index(b"PK\x01\x02") if name.startswith("other") else last
        yield name, whole_file[: first + place] + value + whole_file[first + place + len(value) :]
    ends = whole_file.rindex(b"PK\x05\x06")
    yield "directory of 4 GB", whole_file[: ends + 12] + struct.pack("<II", 0xFFFFFFF0, 0) + whole_file[ends + 20 :]
    yield "comment", whole_file[: ends + 20] + struct.pack("<H", 65535) + b"c" * 65535
    doubled = io.BytesIO(whole_file)
    with zipfile.ZipFile(doubled, "a") as archive:
        archive.writestr("archive/data/0 ", b"x")
    yield "entry twice", doubled.getvalue().replace(b"archive/data/0 ", b"archive/version")


def _old_format() -> bytes:
    buffer = io.BytesIO()
    torch.save({"format": 1}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


GLOBALS = (
    *("os system", "posix system", "nt system", "subprocess Popen", "builtins eval", "builtins exec", "builtins open"),
    *(
        "builtins getattr",
        "builtins __import__",
        "builtins bytearray",
        "builtins set",
        "builtins complex",
        "builtins list",
    ),
    *("torch load", "torch.hub load", "torch.jit load", "torch.serialization load", "torch zeros", "torch Tensor"),
    *(
        "torch device",
        "torch Size",
        "torch.nn.parameter Parameter",
        "torch.storage UntypedStorage",
        "torch FloatTensor",
    ),
    *("torch.storage TypedStorage", "torch._utils _rebuild_parameter", "torch._utils _rebuild_sparse_tensor"),
    *("torch._utils _rebuild_qtensor", "torch._utils _rebuild_meta_tensor_no_storage", "torch ComplexFloatStorage"),
    *("torch._tensor _rebuild_from_type_v2", "torch._utils _rebuild_wrapper_subclass", "torch QInt8Storage"),
    *("collections Counter", "collections defaultdict", "_codecs encode", "copyreg _reconstructor", "pickle loads"),
    *("numpy.core.multiarray _reconstruct", "functools partial", "operator attrgetter", "webbrowser open"),
)


def pickles() -> Iterator[tuple[str, bytes]]:
    """Yield (name, pickle) of calls, of opcodes that torch.save does not write, and of bombs."""
    for name in GLOBALS:
        yield name, content(call(name, text("touch executed")))
        yield f"{name} by stack", b"\x80\x04" + content(b"".join(map(text, name.split())) + b"\x93)R")[2:]
    yield "inst", content(b"(" + text("touch executed") + b"ios\nsystem\n")
    yield "obj", content(b"(cos\nsystem\n" + text("touch executed") + b"o")
    yield "newobj", content(b"ccollections\nOrderedDict\n)\x81")
    yield "call of a number", content(b"K\x01)R")
    yield "call of a storage", content(b"ctorch\nFloatStorage\n(" + whole(GB5) + b"tR")
    yield "build with code", content(b"}" + call("os system", text("x")) + b"b")
    yield "build of a tensor", content(tensor("1", 16, (4,), (1,)) + b"}b")
    yield "extension", content(b"\x82\x01")
    yield "persistent text", content(b"Pstorage\n")
    yield "persistent number", content(b"K\x01Q")
    for name, opcodes in (
        ("bytes of 4 GB", b"B\xff\xff\xff\xff"), ("bytes of 2^63", b"\x8e" + struct.pack("<Q", 1 << 62)),
        ("text of 4 GB", b"X\xff\xff\xff\xff"), ("text of 2^62", b"\x8d" + struct.pack("<Q", 1 << 62)),
        ("bytearray of 2^62", b"\x96" + struct.pack("<Q", 1 << 62)), ("long of 2 GB", b"\x8b\xff\xff\xff\x7f"),
        ("frame", b"\x95" + struct.pack("<Q", 1 << 62)), ("memo of 2^32", b"}r\xff\xff\xff\xff"),
        ("unknown memo", b"h\xf0"), ("marks", b"(" * 1000), ("no mark", b"t"), ("empty stack", b"0000"),
        ("next buffer", b"\x97"), ("pop mark", b"1"), ("dup", b"2"), ("digits", b"L" + b"9" * 5000 + b"L\n"),
        ("half a character", b"X\x03\x00\x00\x00\xed\xa0\x80"), ("no UTF-8", b"X\x01\x00\x00\x00\xff"),
    ):  # fmt: skip
        yield name, content(opcodes)
    yield "bytearray of 5 GB", content(call("builtins bytearray", whole(GB5)))
    yield "bytearray of 5 GB as text", content(call("builtins bytearray", text("x" * 100) + text("utf-8")))
    for key in ("format", "metrics", "architecture", "warnings"):
        yield f"nested tuples in {key}", content(b")" + b"\x85" * 400_000, key)
        yield f"billion laughs in {key}", content(b"]q\x00" + b"](h\x00h\x00h\x00eq\x00" * 60, key)
    yield "list in itself", content(b"]q\x00h\x00a")
    yield "dict in itself", content(b"}q\x00" + text("x") + b"h\x00s")
    yield "400,000 dicts", content(b"](" + b"}" * 400_000 + b"e")
    yield "400,000 lists", content(b"](" + b"]" * 400_000 + b"e")
    yield "a million numbers", content(b"](" + b"K\x01" * 1_000_000 + b"e")
    yield "tuple as key", content(b"})" + b"\x85" * 1000 + b"K\x01s")
    yield "colliding keys", content(b"}(" + b"".join(whole(i << 61) + b"N" for i in range(10_000)) + b"u")
    yield "200,000 keys", content(b"}(" + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(80_000)) + b"u")
    yield "long key", content(b"}" + text("k" * 100_000) + b"Ns")
    yield "a pickle of 20 MB", content(text("x" * 20_000_000))
    yield "number as content", b"\x80\x02K\x01."
    yield "list as content", b"\x80\x02]."
    yield "no stop", content(b"N")[:-1]
    yield "stop at once", b"."
    yield "two values", b"\x80\x02NN."
    yield from _tensors()


def _tensors() -> Iterator[tuple[str, bytes]]:
    """Yield (name, pickle) of tensors that are not in the file; `data/1` of a good file has 24 values."""
    for name, opcodes in {
        "5 GB claimed": tensor("1", GB5 // 4, (GB5 // 4,), (1,)),
        "5 GB of a missing entry": tensor("999", GB5 // 4, (GB5 // 4,), (1,)),
        "5 GB expanded": tensor("1", 24, (GB5 // 4,), (0,)),
        "overlapping rows": tensor("1", 24, (20, 20), (1, 1)),
        "behind the end": tensor("1", 24, (24,), (1,), 1),
        "negative offset": tensor("1", 24, (4,), (1,), -4),
        "negative stride": tensor("1", 24, (4,), (-1,), 12),
        "negative side": tensor("1", 24, (-4,), (1,)),
        "sides of 2^60": tensor("1", 24, (1 << 60, 1 << 60), (1, 1)),
        "side of 2^2000": tensor("1", 24, (1 << 2000,), (1,)),
        "nine dimensions": tensor("1", 24, (1,) * 9, (1,) * 9),
        "a thousand dimensions": tensor("1", 24, (1,) * 1000, (1,) * 1000),
        "size and stride differ": tensor("1", 24, (4, 2), (1,)),
        "path as key": tensor("../../etc/passwd", 24, (4,), (1,)),
        "a tensor 5,000 times": b"](" + tensor("1", 24, (24,), (1,)) + b"q\x01" + b"h\x01" * 5000 + b"e",
    }.items():
        yield name, content(opcodes, "state_dict")


VALUES: dict[str, dict[str, Any]] = {
    "format": {"text": "1", "zero": 0, "float": 1.5, "list": [1], "none": None, "99": 99, "tensor": torch.ones(1)},
    "architecture": {
        "none": None, "number": 7, "empty": "", "long": "x" * 100_000, "escape": "\x1b[2Jcompact_unet",
        "module": "os.system", "path": "/etc/passwd", "url": "https://example.org/model", "bytes": "compact_unet\0",
        "hub": "smp:unet/tu-hf-hub:X/Y", "hub_": "smp:unet/tu-hf_hub:X/Y", "hub without tu": "smp:unet/hf-hub:X/Y",
        "local": "smp:unet/tu-local-dir:/tmp/x", "slash": "smp:unet/tu-X/Y", "tag": "smp:unet/tu-resnet18.a/b",
        "no such timm": "smp:unet/tu-nothing", "no such smp": "smp:unet/nothing", "no such decoder": "smp:x/resnet18",
        "torchvision": "resnet18", "other torchvision": "fcn_resnet50", "larger": "compact_fpn", "smp": "smp:fpn/resnet18",
        "giant": "smp:unet/tu-resnetv2_152x4_bit", "computed": "smp:fpn/mit_b5",
    },
    "classes": {
        "none": None, "list": [], "empty": {}, "no names": {"names": None}, "one name": {"names": ["a"]},
        **{f"ids {ids}": {"ids": ids} for ids in ([0, 10**9], [0, -5], [0, 0], [0, 1.5], [0, True], [0, "7"], [], [0], "07")},
        **{f"colours {c}": {"colors": [[0, 0, 0], c]} for c in ([0, 0, 10**9], [0, 0, -1], [0, 0], "abc", None, [0.5] * 3)},
        "names none": {"names": [None, None]}, "escape": {"names": ["a", "\x1b]0;x\x07"]}, "empty name": {"names": ["", "b"]},
        "line break": {"names": ["a", "b\nc"]}, "NUL": {"names": ["a", "b\0"]}, "long name": {"names": ["a", "b" * 201]},
        "nested name": {"names": ["a", (((1,),),)]}, "300": {"ids": list(range(300)), "names": ["n"] * 300},
        "ignored twice": {"ignore_ids": [9, 9], "ignore_colors": [[0, 0, 0]] * 2}, "ignored 256": {"ignore_ids": [256]},
        "ignored and learned": {"ignore_ids": [7]},
    },
    "input_size": {"zero": [0, 0], "huge": [1 << 40, 64], "float": [64.0, 64.0], "one": [64], "three": [64] * 3,
                   "text": "64", "nan": [float("nan")] * 2, "bool": [True, True], "none": None},
    "normalisation": {
        "none": None, "short": {"mean": [0.5], "std": [0.2]}, "no std": {"mean": [0.5] * 3},
        **{f"std {std}": {"mean": [0.5] * 3, "std": [std] * 3} for std in (0, 1e-300, -1.0, float("nan"), float("inf"), "1", 1e300)},
        **{f"mean {mean}": {"mean": [mean] * 3, "std": [0.2] * 3} for mean in (float("nan"), float("inf"), 1e300, None)},
        "tensors": {"mean": torch.ones(3), "std": torch.ones(3)}, "long": {"mean": [0.5] * 5000, "std": [0.2] * 5000},
    },
    "scale": {"zero": [0.0, 1.0], "nan": [float("nan")] * 2, "huge": [1e300, 1.0], "text": "11", "one": [1.0]},
    "reading": {"unknown": {"run": "x"}, "channels": {"channels": 10**9}, "text": {"channels": "3"}, "list": [],
                "ranges": {"value_ranges": [[0.0, float("inf")]]}, "range": {"value_ranges": [[1.0, 0.0]]},
                "flag": {"raw_orientation": 1}, "many": {"value_ranges": [[0.0, 1.0]] * 2000}},
    "metrics": {"nan": {"best_val_miou": float("nan")}, "text": {"best_val_miou": "0.9"}, "list": [], "none": None},
    "lineage": {"number": {"run_id": 7}, "long": {"run_id": "x" * 100_000}, "list": [], "none": None},
    "warnings": {"text": "x", "rows": [7], "keys": [{}], "many": [{"kind": "k", "text": "t"}] * 2000},
    "state_dict": {"none": None, "empty": {}, "list": [], "numbers": {"head.weight": 1.0}},
}  # fmt: skip


def contents(good: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, file) of good archives with a wrong value."""
    for key, values in VALUES.items():
        for name, value in values.items():
            part = isinstance(value, dict) and key == "classes" and value
            yield f"{key}: {name}", saved(good | {key: good[key] | value if part else value})
        yield f"no {key}", saved({k: v for k, v in good.items() if k != key}) if key not in OPTIONAL else b""
    weights = good["state_dict"]
    changes: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "NaN": lambda t: t.clone().fill_(float("nan")), "infinity": lambda t: t.clone().fill_(float("inf")),
        "other type": lambda t: t.double(), "whole numbers": lambda t: t.long(), "other shape": lambda t: t[:1],
        "no values": lambda t: t[:0],
    }  # fmt: skip
    for name, change in changes.items():
        yield (
            f"weights: {name}",
            saved(good | {"state_dict": weights | {"head.weight": change(weights["head.weight"])}}),
        )
    yield "weights: unknown", saved(good | {"state_dict": weights | {"extra": torch.ones(1)}})
    variance = next(key for key in weights if key.endswith("running_var"))
    yield (
        "weights: negative variance",
        saved(good | {"state_dict": weights | {variance: -torch.ones_like(weights[variance])}}),
    )


OPTIONAL = ("scale", "reading", "warnings")  # missing in older files


def saved(value: object) -> bytes:
    """Return what torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def hostile_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of all files; none of them is a model."""
    good = good_entries(folder)
    yield from archives(good)
    small = {name: content for name, content in good.items() if not name.endswith("/data/0")}  # no time for checksums
    for name, content in pickles():
        yield name, pack(small | {"archive/data.pkl": content})
    model = torch.load(folder / "good.pth", weights_only=True)
    yield from ((name, file) for name, file in contents(model) if file)
