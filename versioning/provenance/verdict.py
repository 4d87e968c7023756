"""The verdict of the promotion gate: what it stores with a version, and what can be read of a tag that others may change."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from core.i18n import mark, tr
from core.safety.json_object import JsonObject
from utils.run_names import CHAMPION

CHALLENGER = mark("challenger")  # decision, and alias of the newest version that did not pass the gate
PROMOTE_BY = "promote_by"  # options of register_model.py that remove every reason: those that a person may waive
WAIVERS = ACCEPT_WARNINGS, WITHOUT_INTERVAL = "--accept-warnings", "--confidence 0"  # the options in PROMOTE_BY
ACCEPTED = "accepted"  # warnings that a person accepted
MIN_SLICE_GROUPS = 5  # groups of images that a slice needs to be judged: fewer would only tell huge losses from chance
DEFAULT_CONFIDENCE = 0.95  # of intervals, where REGISTER_CONFIDENCE=0 asks for none of the gain over all images
SLICES = "slices"  # gains on slices, worst first
MAX_TAG = 8000  # characters that a tag of MLflow holds
MAX_REASONS, MAX_REASON = 12, 400  # reasons, and characters of each, so that a tag of MLflow can hold them


@dataclass(frozen=True)
class Comparison:
    """A candidate beside the champion, on the images that both may be measured on."""

    compared: int  # images
    groups: int  # of images that belong together
    split: str
    figure: str  # the metric
    champion: float
    gain: float
    interval: tuple[float, float] | None
    confidence: float | None  # of the interval
    classes: str | None  # coverage of a mean over classes: '9/11'


@dataclass(frozen=True)
class SliceGain:
    """What the candidate gains over the champion on one slice of the compared images."""

    rule: str  # of REGISTER_SLICES; the name of a CSV file
    name: str
    images: int
    groups: int
    champion: float  # the metric of the comparison
    gain: float
    interval: tuple[float, float] | None  # simultaneous with those of the other slices; None: reported, not judged

    @property
    def label(self) -> str:
        """The rule and the name."""
        return f"{self.rule} {self.name}"

    @property
    def degraded(self) -> bool:
        """Whether the candidate is worse beyond the interval."""
        return self.interval is not None and self.interval[1] < 0

    def content(self) -> dict[str, Any]:
        """Return the values for a record in JSON, rounded to what is shown."""
        interval = {"interval": [round(end, 5) for end in self.interval]} if self.interval is not None else {}
        numbers = {"champion": round(self.champion, 5), "gain": round(self.gain, 5), **interval}
        return {"rule": self.rule, "name": self.name, "images": self.images, "groups": self.groups, **numbers}

    @classmethod
    def parse(cls, found: JsonObject) -> SliceGain:
        """Return the gain of a record. Raises the record's error for a value of another type."""
        interval = _interval(found)
        return cls(
            rule=found.text("rule"),
            name=found.text("name"),
            images=found.count("images"),
            groups=found.count("groups"),
            champion=found.number("champion"),
            gain=found.number("gain"),
            interval=interval,
        )


def worst_first(slices: Iterable[SliceGain]) -> list[SliceGain]:
    """Return the degraded slices, then the other judged ones, then those that are only reported; each by the gain."""
    return sorted(slices, key=lambda one: (not one.degraded, one.interval is None, one.gain))


@dataclass(frozen=True)
class Forced:
    """A person's decision against the gate."""

    by: str
    at: str
    why: str


@dataclass(frozen=True)
class Verdict:
    """The gate's decision with its reasons; `to_tag` is what the registry stores of it, and `parse` reads it."""

    decision: str  # CHAMPION or CHALLENGER
    reasons: tuple[str, ...]
    against: str | None  # version number of the champion that it was compared with
    record: Mapping[str, Any]  # metrics, data, conditions
    forced: Forced | None = None  # if a person decided

    def __post_init__(self) -> None:
        if self.decision not in (CHAMPION, CHALLENGER):
            raise ValueError(f"decision {self.decision!r}")

    @classmethod
    def parse(cls, text: str, where: str) -> Verdict:
        """Return the verdict of a tag. Raises AppError, naming `where` it was read, for anything else."""
        found = JsonObject.parse(text, where, tr("it was changed in MLflow; judge the run again by --run-id"))
        if found.text("decision") not in (CHAMPION, CHALLENGER):
            raise found.invalid("decision", f"{CHAMPION} | {CHALLENGER}")
        forced = found.child("forced") if "forced" in found else None
        record = {key: value for key, value in found.content.items() if key not in _OWN_KEYS}
        _parse_record(found)
        return cls(
            decision=found.text("decision"),
            reasons=found.texts("reasons"),
            against=found.text("against") if "against" in found else None,
            record=record,
            forced=Forced(forced.text("by"), forced.text("at"), forced.text("why")) if forced else None,
        )

    @property
    def comparison(self) -> Comparison | None:
        """The metrics beside the champion's; None: there was no champion, or no image to compare on."""
        return _parse_record(JsonObject(dict(self.record), "verdict", ""))

    @property
    def slices(self) -> tuple[SliceGain, ...]:
        """The gains on the slices of REGISTER_SLICES, as many as the record has."""
        return _parse_slices(JsonObject(dict(self.record), "verdict", ""))

    @property
    def accepted(self) -> tuple[str, ...]:
        """Warnings that --accept-warnings accepted."""
        return tuple(self.record.get(ACCEPTED) or ())

    @property
    def promote_by(self) -> tuple[str, ...]:
        """Options of register_model.py by which a person may promote the version all the same."""
        return tuple(self.record.get(PROMOTE_BY) or ())

    def content(self) -> dict[str, Any]:
        """Return the verdict for a record in JSON."""
        forced = {"forced": vars(self.forced)} if self.forced else {}
        return {
            "decision": self.decision,
            "against": self.against,
            **self.record,
            **forced,
            "reasons": list(self.reasons),
        }

    def to_tag(self) -> str:
        """Return JSON; reasons are shortened to what a tag of MLflow can hold."""
        reasons = [reason[:MAX_REASON] for reason in self.reasons[:MAX_REASONS]]
        content = {**self.content(), "reasons": reasons}
        while len(text := json.dumps(content, ensure_ascii=False)) > MAX_TAG and content.get(SLICES):
            content[SLICES] = content[SLICES][:-1]  # the least important of them
        return text


_OWN_KEYS = frozenset({"decision", "against", "reasons", "forced"})


def _parse_record(found: JsonObject) -> Comparison | None:
    """Return the comparison of a record, if there is one. Raises the record's error for a value of another type."""
    found.texts(ACCEPTED)
    if not set(found.texts(PROMOTE_BY)) <= set(WAIVERS):  # they become a command that people paste
        raise found.invalid(PROMOTE_BY, " | ".join(WAIVERS))
    _parse_slices(found)
    if not found.content.get("compared"):
        return None
    interval = _interval(found)
    compared = found.count("compared")
    return Comparison(
        compared=compared,
        groups=found.count("groups") if "groups" in found else compared,  # older verdicts: each image is a group
        split=found.text("split"),
        figure=found.text("figure"),
        champion=found.number("champion"),
        gain=found.number("gain"),
        interval=interval,
        confidence=found.number("confidence") if interval else None,
        classes=found.text("classes") if "classes" in found else None,
    )


def _parse_slices(found: JsonObject) -> tuple[SliceGain, ...]:
    return tuple(SliceGain.parse(one) for one in found.objects(SLICES))


def _interval(found: JsonObject) -> tuple[float, float] | None:
    ends = found.numbers("interval")
    if ends and len(ends) != 2:
        raise found.invalid("interval", tr("two numbers"))
    return (ends[0], ends[1]) if ends else None
