"""HTML pages from Jinja2 templates with autoescape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.i18n import current_language, tr


def render(template: Path, **fields: Any) -> str:
    """Render a template file, which can use `tr` and `language`. Every inserted text is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "sort_keys": False}
    environment.globals.update(tr=tr, language=current_language())
    return environment.get_template(template.name).render(**fields)
