"""report.html: one file that says what a run was made of and what came of it; it needs nothing from elsewhere."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from core.files import write_atomically
from core.git import without_credentials
from core.i18n import current_language, tr
from train.reports.history import CLASS_COLUMNS, class_rows

if TYPE_CHECKING:
    from train.mlflow_train import MlflowTrain
    from train.result import Result

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } code { overflow-wrap: anywhere; }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; } img { max-width: 100%; border-radius: 4px; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }
.figures div { background: var(--soft); border-radius: 6px; padding: .5rem 1rem; }
.figures b { display: block; font-size: 1.5rem; } .wide { overflow-x: auto; } figcaption { opacity: .7; }
"""
# The page may not fetch or run anything, whatever a file or class name says.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(path: Path, training: MlflowTrain, result: Result, pictures: Path) -> None:
    """Write the page of a finished run; `pictures` holds what `figures.draw_all` made."""
    best, title = training.best, tr("Training report")
    heads = [
        ("mIoU", f"{result.miou:.4f}"),
        (tr("accuracy"), f"{result.accuracy:.4f}"),
        (tr("best epoch"), f"{best.epoch + 1} / {len(training.history)}"),
        (tr("training time"), f"{sum(r.seconds for r in training.history):.0f} s"),
    ]
    parts = [
        f"<h1>{title}: {_text(training.settings.model)}</h1><p><code>{_text(result.run_id)}</code></p>",
        '<div class="figures">' + "".join(f"<div>{_text(k)}<b>{_text(v)}</b></div>" for k, v in heads) + "</div>",
        _section(tr("Lineage"), _lineage(training, result)),
        _section(tr("Data"), _data(training)),
        _section(tr("Curves"), _picture(pictures / "curves.png")),
        _section(tr("Classes (validation split)"), _classes(training)),
        _section(tr("Confusion matrix"), _picture(pictures / "confusion.png")),
        _section(tr("Samples: picture, label, prediction"), _picture(pictures / "overlays.png")),
        _section(
            tr("Worst predictions: picture, label, prediction"),
            _worst(training, pictures),
        ),
        _section(tr("Settings"), _rows(training.settings.public().items())),
    ]
    language = current_language()
    page = (
        f'<!DOCTYPE html>\n<html lang="{language}"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title} {_text(result.run_id[:8])}</title><style>{STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
    write_atomically(path, page.encode())


def _text(value: object) -> str:
    return html.escape(str(value))


def _section(title: str, body: str) -> str:
    return f"<h2>{_text(title)}</h2>\n<div class=wide>{body}</div>"


def _picture(path: Path, caption: str = "") -> str:
    """A picture inside the page; nothing where there is none."""
    if not path.exists():
        return ""
    kind = "png" if path.suffix == ".png" else "jpeg"
    content = base64.b64encode(path.read_bytes()).decode()
    note = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
    return f'<figure style="margin:0"><img alt="{_text(path.stem)}" src="data:image/{kind};base64,{content}">{note}</figure>'


def _rows(rows: Iterable[tuple[str, object]]) -> str:
    """A table of names and values; a value that is an (address, text) pair becomes a link."""
    cells = []
    for name, value in rows:
        shown = f"<code>{_text(value)}</code>"
        if isinstance(value, tuple):
            address, text = value
            web = str(address).startswith(("http://", "https://"))
            shown = (
                f'<a href="{_text(address)}"><code>{_text(text)}</code></a>' if web else f"<code>{_text(text)}</code>"
            )
        cells.append(f"<tr><th>{_text(name)}</th><td>{shown}</td></tr>")
    return f"<table>{''.join(cells)}</table>"


def _lineage(training: MlflowTrain, result: Result) -> str:
    """Run, data, model and code, with links where the servers have web pages."""
    lake = without_credentials(training.settings.lakefs_endpoint or "").rstrip("/")
    git = training.git

    def commit_page(repo: str, commit: str) -> str:
        return f"{lake}/repositories/{quote(repo)}/commits/{quote(commit)}" if lake else ""

    remote = git.remote.removesuffix(".git")
    code = git.commit + (tr(" + changes") if git.dirty == "true" else "")
    data, model = result.data_path, result.model_path
    return _rows(
        [
            (tr("MLflow run"), (training.run_page() or "", result.run_id)),
            (tr("data"), (commit_page(data.repo, data.ref), data)),
            (tr("model"), (commit_page(model.repo, model.ref), model)),
            (tr("model SHA-256"), result.model_sha256),
            (
                tr("code (Git)"),
                (f"{remote}/commit/{git.commit}" if remote.startswith("https:") else "", code),
            ),
            (tr("to repeat it"), f"python train.py --reproduce {result.run_id}"),
        ]
    )


def _data(training: MlflowTrain) -> str:
    """Pictures of each split, and the share of each class among the labelled pixels."""
    data = training.data
    head = [tr("class"), *data.pixel_counts]
    rows = [[tr("(pictures)"), *(len(data.split(split)) for split in data.pixel_counts)]]
    totals = {split: max(1, sum(counts)) for split, counts in data.pixel_counts.items()}
    for index, name in enumerate(data.classes.names):
        rows.append([name, *(f"{data.pixel_counts[s][index] / totals[s]:.2%}" for s in totals)])
    return _table(head, rows)


def _classes(training: MlflowTrain) -> str:
    if training.best_confusion is None:
        return ""
    rows = class_rows(training.best_confusion, training.data.classes)
    return _table(CLASS_COLUMNS, [[_figure(value) for value in row] for row in rows])


def _figure(value: object) -> object:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else value


def _worst(training: MlflowTrain, pictures: Path) -> str:
    """The validation pictures with the lowest mIoU of their own, worst first."""
    names = ", ".join(f"{name} ({score:.3f})" for name, score in training.worst())
    return _picture(pictures / "worst.png", names)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The first column is text, the others are numbers."""
    kinds = ["", *([' class="number"'] * (len(head) - 1))]
    top = "".join(f"<th{kind}>{_text(name)}</th>" for kind, name in zip(kinds, head, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{_text(v)}</td>" for kind, v in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{top}</tr>{body}</table>"
