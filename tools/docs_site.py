"""Hook of mkdocs.yml: pages of docs/ that stand for documents of the top directory, and links between the two.

The documents stay at the top because hosts of Git repositories look for them there. A page `<!-- site: SECURITY.md -->`
shows that document instead of its own text. Links are written for those hosts (`../SECURITY.md`, `docs/data.md`) and
rewritten for the site; links to code, which is not part of the site, become plain text.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
STANDS_FOR = re.compile(r"^<!-- site: (\S+) -->$", re.MULTILINE)
# Document of the top directory -> page of the site.
PAGES = {
    "ARCHITECTURE.md": "architecture.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "README.md": "index.md",
    "README.ko.md": "index.md",
}
ENGLISH_ONLY = {"ko": "이 문서는 영어로만 제공합니다."}  # by language of the site
_LANGUAGES = re.compile(r"^\[(?:한국어|English)\]\([^)]*\)\n+", re.MULTILINE)  # the site has a switch of its own
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 (MkDocs calls it)
    """Return the text of a page of the site."""
    return site_text(markdown, str(config.theme["language"]))


def site_text(markdown: str, language: str = "en") -> str:
    """Return the text of a page of docs/ as the site shows it; an English document says so in another language."""
    markdown = _LANGUAGES.sub("", markdown)
    stands_for = STANDS_FOR.search(markdown)
    if stands_for:
        text = (ROOT / stands_for[1]).read_text(encoding="utf-8")
        title, _, rest = text.partition("\n")
        text = f"{title}\n\n{ENGLISH_ONLY[language]}\n{rest}" if language in ENGLISH_ONLY else text
        return _LINK.sub(lambda match: _link(match, match[3].removeprefix("docs/"), "docs/" in match[3]), text)
    return _LINK.sub(lambda match: _link(match, match[3].removeprefix("../"), not match[3].startswith("../")), markdown)


def _link(match: re.Match[str], path: str, within_docs: bool) -> str:
    """Return the link to `path`, relative to docs/ if it is `within_docs`, otherwise to the top directory."""
    image, text, target, anchor = match[1], match[2], match[3], match[4] or ""
    if not target or ":" in target or (within_docs and path == target):
        return match[0]
    if within_docs or path in PAGES:
        return f"{image}[{text}]({path if within_docs else PAGES[path]}{anchor})"
    return text
