"""SweepPlan: what a sweep.yaml asks for, validated completely before any work."""

from __future__ import annotations

import hashlib
import json
import math
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import FIELDS, SETTINGS
from core.errors import UsageError
from core.i18n import tr
from core.settings import InvalidSetting, defaults_of, parse_value, validate_value
from train.sweep.pruning import EPOCH, PERCENT, Pruner
from train.sweep.yaml_nodes import Entry, read_yaml

METRICS = ("best_val_miou", "best_val_accuracy")
SAMPLERS = ("tpe", "random")
PRUNERS = ("none", "median", "halving")
# How the data is read and split, and the model to start from, is decided once for all trials.
COMMON = (
    *("raw_orientation", "allow_truncated", "seed", "split_group", "init", "init_sha256", "folds"),
    *("pretrained_sha256", "weights"),
)
TRAINING = tuple(name for name, info in SETTINGS.items() if not info.runtime_only)
KEYS = (*("name", "trials", "time_limit", "metric", "sampler", "pruner", "seed", "settings"), "space")
RANGE_KEYS, CHOICE_KEYS = ("low", "high", "step", "log"), ("choices",)
PRUNER_KEYS = ("type", "startup_trials", "warmup_epochs", "min_epochs", "factor")
KEYS_OF_PRUNER = {"median": ("startup_trials", "warmup_epochs"), "halving": ("min_epochs", "factor")}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class Parameter:
    """A setting that the sweep varies: numbers from `low` to `high`, or one of `choices` (texts as in .env)."""

    setting: str
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False

    @property
    def is_int(self) -> bool:
        """Whether the setting is a whole number."""
        return FIELDS[self.setting] is int

    def value(self, drawn: Any) -> Any:
        """Return what was drawn as the setting's type; an empty text leaves the setting open."""
        if not self.choices:
            return int(drawn) if self.is_int else float(drawn)
        return parse_value(self.setting.upper(), drawn, FIELDS[self.setting]) if drawn else None


@dataclass(frozen=True)
class SweepPlan:
    """A search: what varies, what is fixed, how long, and by which metric of the validation split."""

    name: str
    space: tuple[Parameter, ...]
    settings: Mapping[str, Any]  # fixed for all trials
    trials: int | None
    time_limit: float | None  # seconds of training of all trials together, after which none starts
    metric: str
    sampler: str
    pruner: Pruner
    seed: int
    content: bytes  # of the file

    @property
    def sha256(self) -> str:
        """The checksum of the file."""
        return hashlib.sha256(self.content).hexdigest()

    def compared_by(self, epochs: int | None) -> str:
        """Return the unit in which equal steps of all trials mean the same; `epochs` is the setting that they share.

        Without it, the size of their batches, or their speed, decides how many epochs they have.
        """
        varied = {parameter.setting for parameter in self.space}
        return PERCENT if epochs is None or "epochs" in varied else EPOCH

    def record(self) -> dict[str, Any]:
        """Return what defines the search, as JSON values: two files with the same record are the same sweep."""
        plain = {
            "space": {p.setting: {k: v for k, v in vars(p).items() if k != "setting"} for p in self.space},
            "settings": dict(self.settings),
            "pruner": vars(self.pruner),
            **{key: getattr(self, key) for key in ("trials", "time_limit", "metric", "sampler", "seed")},
        }
        record: dict[str, Any] = json.loads(json.dumps(plain))
        return record


def read_plan(path: Path) -> SweepPlan:
    """Return the plan of a sweep.yaml. Raises UsageError that names file, line and key."""
    content, root = read_yaml(path)
    entries = root.keys(tr("keys such as trials and space"), KEYS)
    for missing in {"space"} - entries.keys():
        raise root.problem(tr("{key} is missing", key=missing))
    if not entries.keys() & {"trials", "time_limit"}:
        raise root.problem(tr("{key} is missing", key="trials"))
    fixed = _fixed(entries.get("settings"))
    space = _space(entries["space"], fixed)
    return SweepPlan(
        name=_name(entries.get("name"), path),
        space=space,
        settings=fixed,
        trials=_int(entries.get("trials"), None, 1),
        time_limit=_number(entries["time_limit"], above=0) if "time_limit" in entries else None,
        metric=_metric(entries.get("metric")),
        sampler=_one_of(entries.get("sampler"), SAMPLERS),
        pruner=_pruner(entries.get("pruner")),
        seed=_int(entries.get("seed"), 0, 0) or 0,
        content=content,
    )


def _name(entry: Entry | None, path: Path) -> str:
    rule = tr("1 to 64 letters, digits, '_', '.' and '-'")
    name = path.stem if entry is None else entry.text(rule)
    if NAME.fullmatch(name):
        return name
    if entry is None:
        raise UsageError(tr("{path}: the sweep needs a name, as the file's has other characters: name: …", path=path))
    raise entry.error(rule)


def _metric(entry: Entry | None) -> str:
    if entry is not None and entry.text(tr("one of {choices}", choices=", ".join(METRICS))).startswith("test"):
        raise entry.problem(
            tr("the test split must not choose the settings: one of {choices}", choices=", ".join(METRICS))
        )
    return _one_of(entry, METRICS)


def _one_of(entry: Entry | None, choices: tuple[str, ...]) -> str:
    """Return one of the choices; the first without an entry."""
    if entry is None:
        return choices[0]
    expected = tr("one of {choices}", choices=", ".join(choices))
    text = entry.text(expected)
    if text not in choices:
        raise entry.error(expected)
    return text


def _int(entry: Entry | None, default: int | None, minimum: int) -> int | None:
    if entry is None:
        return default
    expected = tr("a whole number, at least {minimum}", minimum=minimum)
    text = entry.text(expected)
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < minimum:
        raise entry.error(expected)
    return int(text)


def _number(entry: Entry, above: float | None = None) -> float:
    expected = tr("a number") if above is None else tr("a number greater than {above}", above=f"{above:g}")
    try:
        number = float(entry.text(expected))
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or (above is not None and number <= above):
        raise entry.error(expected)
    return number


def _bool(entry: Entry | None) -> bool:
    if entry is None:
        return False
    text = entry.text(tr("true or false")).lower()
    if text not in ("true", "false"):
        raise entry.error(tr("true or false"))
    return text == "true"


def _pruner(entry: Entry | None) -> Pruner:
    if entry is None or not entry.is_mapping:
        return Pruner(_one_of(entry, PRUNERS))
    entries = entry.keys(tr("keys such as type"), PRUNER_KEYS)
    numbers = {name: 2 if name == "factor" else 1 for name in PRUNER_KEYS[1:]} | {"warmup_epochs": 0}
    values = {name: _int(entries[name], None, least) for name, least in numbers.items() if name in entries}
    chosen = _one_of(entries.get("type"), PRUNERS)
    switched_off = chosen == "none" and "type" in entries  # may keep what it had
    for name in () if switched_off else values:
        if name not in KEYS_OF_PRUNER.get(chosen, ()):
            raise entries[name].problem(tr("has no effect on the pruner {type}: leave it out", type=chosen))
    return Pruner(chosen, **typing.cast("dict[str, int]", values))


# --- settings ---------------------------------------------------------------------------------------------------------


def _named_settings(entry: Entry) -> dict[str, Entry]:
    """Return the entries by setting; names are those of options.md in any case. Raises UsageError for unknown ones."""
    found: dict[str, Entry] = {}
    for written, value in entry.keys(tr("names of settings")).items():
        name = written.lower().replace("-", "_")
        if name in SETTINGS and SETTINGS[name].runtime_only:
            raise value.problem(tr("does not change the trained model: set it in the environment or in .env"))
        value.require_known(name, list(TRAINING))
        if name in found:
            raise value.problem(tr("given twice, first in line {line}", line=found[name].line))
        found[name] = value
    return found


def _fixed(entry: Entry | None) -> dict[str, Any]:
    if entry is None:
        return {}
    return {name: _setting_value(name, value) for name, value in _named_settings(entry).items()}


def _setting_text(entry: Entry) -> str:
    """Return a value as it would stand in .env: a list such as [180, 240] as '180 240', null as an empty text."""
    if entry.is_null:
        return ""
    if entry.is_list:
        return " ".join(item.text(tr("a value")) for item in entry.items(tr("a value")))
    return entry.text(tr("a value"))


def _setting_value(name: str, entry: Entry) -> Any:
    """Return the value of a setting. Raises UsageError that names the line."""
    text = _setting_text(entry)
    if not text:
        if defaults_of_settings()[name] is not None:
            raise entry.error(tr("a value"))
        return None
    return _checked(name, text, entry)


def _checked(name: str, text: str, entry: Entry) -> Any:
    try:
        value = parse_value(name.upper(), text, FIELDS[name])
        validate_value(name.upper(), value, SETTINGS[name])
    except InvalidSetting as error:
        raise entry.problem(f"{text!r}: {error.problem}") from None
    return value


def defaults_of_settings() -> dict[str, Any]:
    """Return the default of every setting."""
    from config import Settings

    return defaults_of(Settings)


def _space(entry: Entry, fixed: Mapping[str, Any]) -> tuple[Parameter, ...]:
    parameters = []
    for name, value in _named_settings(entry).items():
        if name in COMMON:
            raise value.problem(tr("must be the same for all trials: move it to settings:"))
        if name in fixed:
            raise value.problem(tr("is in settings: too: leave one of them out"))
        parameters.append(_parameter(name, value))
    return tuple(parameters)


def _parameter(name: str, entry: Entry) -> Parameter:
    expected = tr("a list of values, or keys such as low and high")
    if entry.is_list:
        return _choices(name, entry)
    entries = entry.keys(expected, (*RANGE_KEYS, *CHOICE_KEYS))
    if "choices" in entries:
        for other in entries.values():
            if other is not entries["choices"]:
                raise other.problem(tr("not with choices"))
        return _choices(name, entries["choices"])
    if FIELDS[name] not in (int, float):
        raise entry.problem(tr("not a number: give a list of values"))
    return _range(name, entry, entries)


def _choices(name: str, entry: Entry) -> Parameter:
    texts: list[str] = []
    values: list[Any] = []
    for item in entry.items(tr("a list of values")):
        value = _setting_value(name, item)
        text = "" if value is None else _setting_text(item)
        if value in values:  # 0.01 and 1e-2 are one choice, which would be drawn twice as often
            raise item.problem(tr("{value} is given twice", value=repr(text)))
        texts.append(text)
        values.append(value)
    return Parameter(name, choices=tuple(texts))


def _range(name: str, entry: Entry, entries: Mapping[str, Entry]) -> Parameter:
    for key in ("low", "high"):
        if key not in entries:
            raise entry.problem(tr("{key} is missing", key=key))
    bounds = {key: float(_checked(name, entries[key].text(tr("a number")), entries[key])) for key in ("low", "high")}
    if bounds["low"] >= bounds["high"]:
        raise entries["high"].error(tr("a number greater than {above}", above=f"{bounds['low']:g}"))
    log = _bool(entries.get("log"))
    if log and bounds["low"] <= 0:
        raise entries["low"].error(tr("a number greater than {above}", above=0))
    step = None
    if "step" in entries:
        step = _number(entries["step"], above=0)
        if log:
            raise entries["step"].problem(tr("not with log"))
        if FIELDS[name] is int and step != int(step):
            raise entries["step"].error(tr("a whole number, at least {minimum}", minimum=1))
        steps = (bounds["high"] - bounds["low"]) / step
        if round(steps) < 1 or abs(steps - round(steps)) > 1e-6:
            raise entries["step"].problem(tr("high is not reached from low by steps of {step}", step=f"{step:g}"))
    return Parameter(name, low=bounds["low"], high=bounds["high"], step=step, log=log)
