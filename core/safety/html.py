"""HTML pages from Jinja2 templates: every text is escaped, and only the templates' own style and script are allowed.

Templates extend `base.html` and import `components.html` of `core/pages/`, the design that all pages share.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.files import write_atomically
from core.i18n import current_language, tr, trn

if TYPE_CHECKING:
    import jinja2

# Elements whose content runs or styles; a script with a type attribute is data.
_INLINE = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)
EMBEDDED_IMAGES = "data:"
SHARED = Path(__file__).resolve().parent.parent / "pages"  # templates that others extend, include or import


def render(template: Path, image_sources: str = EMBEDDED_IMAGES, **fields: Any) -> str:
    """Render a template file, which can use `tr`, `trn`, `language` and `policy`. Every inserted text is escaped.

    `image_sources`: sources of images that the page's policy allows.
    """
    from markupsafe import Markup

    text = template.read_text(encoding="utf-8")
    policy = Markup(content_policy(template, image_sources))
    return _environment().from_string(text).render(language=current_language(), policy=policy, **fields)


def write_page(path: Path, template: Path, image_sources: str = EMBEDDED_IMAGES, **fields: Any) -> None:
    """Render a template file into `path`; bytes of names that are not UTF-8 are shown as escapes. Raises OSError."""
    write_atomically(path, render(template, image_sources, **fields).encode("utf-8", "backslashreplace"))


def content_policy(template: Path, image_sources: str = EMBEDDED_IMAGES, more: str = "") -> str:
    """Return the Content-Security-Policy of a page: its styles and scripts by the hashes of the templates, and images.

    The hashes are those of the template and of the shared ones that it uses, not of the page, so that nothing that a
    page inserts can be allowed. Neither element may contain expressions of the template. `more`: further directives.
    """
    hashes: dict[str, list[str]] = {"style": [], "script": []}
    for text in _sources(template.read_text(encoding="utf-8")):
        for match in _INLINE.finditer(text):
            digest = hashlib.sha256(match[2].encode()).digest()
            hashes[match[1]].append(f"'sha256-{base64.b64encode(digest).decode()}'")
    sources = "".join(f"; {kind}-src {' '.join(values)}" for kind, values in hashes.items() if values)
    return f"default-src 'none'{sources}; img-src {image_sources}; base-uri 'none'; form-action 'none'{more}"


def _sources(text: str) -> list[str]:
    """Return a template's text and those of the shared templates that it uses, directly or through others."""
    from jinja2 import meta

    found, names = [text], set[str]()
    for source in found:  # grows
        for name in meta.find_referenced_templates(_environment().parse(source)):
            if name is not None and name not in names:
                names.add(name)
                found.append((SHARED / name).read_text(encoding="utf-8"))
    return found


@functools.cache
def _environment() -> jinja2.Environment:
    """Return the one environment of all pages."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(SHARED),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {"tr": tr, "trn": trn}  # also in macros, which do not see the fields of the page
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "sort_keys": False}
    return environment
