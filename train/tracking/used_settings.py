"""The settings of a run with the values that were used, for its report and for MLflow."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from config import SETTINGS, Settings

GIVEN_TAG = "settings_given"  # of a run: names of the settings that somebody set, with a space between two
# Settings that may be open until the training starts: train/setup.py decides them from the data and the machine.
DECIDED = (
    *("device", "image_size", "class_weights", "batch_size"),
    *("epochs", "augmentation", "learning_rate", "precision", "stream"),
)
NOT_SET = "None"  # text of a setting without a value


@dataclass(frozen=True)
class UsedSetting:
    """One setting of a run; `given`: somebody set it, on the command line, in the environment or in .env."""

    name: str
    value: str
    given: bool


def used_settings(settings: Settings, decided: Mapping[str, str], given: Collection[str]) -> tuple[UsedSetting, ...]:
    """Return the settings that have a value, those in `given` first; without secrets.

    `decided`: the values of settings that were open, by name; they replace "auto" and the like.
    """
    values = {**settings.public(), **{name: value for name, value in decided.items() if name in SETTINGS}}
    used = [UsedSetting(name, value, name in given) for name, value in values.items() if value != NOT_SET]
    return tuple(sorted(used, key=lambda setting: not setting.given))  # stable: each half in the order of config.py


def known_parameters(settings: Settings) -> dict[str, str]:
    """Return the settings whose values are known before the training, as parameters of its run; without secrets."""
    public = settings.public()
    return {name: value for name, value in public.items() if name not in DECIDED and value != NOT_SET}


def given_names(settings: Settings) -> str:
    """Return the value of GIVEN_TAG."""
    return " ".join(name for name in SETTINGS if name in settings.explicit and not SETTINGS[name].secret)
