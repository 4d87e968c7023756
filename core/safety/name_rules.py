"""Which names lakeFS accepts for repositories and branches, S3 for buckets, MLflow for models; a SHA-256, rules of slices.

Each rule is the facts `pattern` and `rule` of a setting (core/settings.py).
"""

from __future__ import annotations

from core.i18n import mark

BUCKET = {
    "pattern": r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
    "rule": mark("3 to 63 lower-case letters, digits, '-' and '.'"),
}
REPOSITORY = {
    "pattern": r"[a-z0-9][a-z0-9-]{2,62}",
    "rule": mark("3 to 63 lower-case letters, digits and '-', not starting with '-'"),
}
BRANCH = {
    "pattern": r"\w[-\w]*",
    "rule": mark("letters, digits, '_' and '-', not starting with '-'"),
}
MODEL = {
    "pattern": r"(?!\.+$)[^\s/@:]([^/@:]*[^\s/@:])?",  # NAME/VERSION and NAME@ALIAS name a version of it
    "rule": mark("a name without '/', '@', ':'"),
}
METRIC = {
    "pattern": r"(?s).*(miou|accuracy)",  # the two that the gate measures again
    "rule": mark("…miou or …accuracy, of which higher is better"),
}
SHA256 = {"pattern": r"[0-9a-f]{64}", "rule": mark("64 hex digits")}
SLICES = {
    "pattern": r"\s*(object-size|brightness|directory|[^,]+\.csv)\s*(,\s*(object-size|brightness|directory|[^,]+\.csv)\s*)*",
    "rule": mark("object-size, brightness, directory, FILE.csv or several of them, separated by commas"),
}
