"""The console's language and the message catalogue."""

from __future__ import annotations

from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import write_po

from core import i18n
from tests.support.project import Project, make_project
from tools import catalogue


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("language"), images=0, git=False)


def test_catalogue_is_complete_and_compiled() -> None:
    assert catalogue.problems() == []


def test_compiled_catalogue_of_another_babel_version_is_current(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = catalogue.MO.read_bytes()
    assert b"Generated-By: Babel " in compiled
    monkeypatch.setattr(catalogue, "MO", tmp_path / "messages.mo")
    catalogue.MO.write_bytes(compiled.replace(b"Generated-By: Babel ", b"Generated-By: Other "))
    assert catalogue.problems() == []


def test_compiled_catalogue_with_an_old_text_is_out_of_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = catalogue.read_catalogue()
    next(message for message in old if message.id).string = "예전 문장"
    monkeypatch.setattr(catalogue, "MO", tmp_path / "messages.mo")
    monkeypatch.setattr(catalogue, "ROOT", tmp_path)
    with catalogue.MO.open("wb") as stream:
        write_mo(stream, old)
    monkeypatch.setattr(catalogue, "extracted", lambda: set(catalogue.texts(old)))
    assert [line.split(" is ")[1] for line in catalogue.problems()] == ["out of date: python tools/catalogue.py update"]


@pytest.mark.parametrize(
    ("environment", "is_korean"),
    [
        ({"LANG": "ko_KR.UTF-8"}, True),
        ({"LANG": "C"}, False),
        ({"LANG": "de_DE.UTF-8"}, False),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "ko_KR.UTF-8"}, True),
        ({"LANG": "ko_KR.UTF-8", "LC_ALL": "C.UTF-8"}, False),
        ({"LANG": "ko_KR.UTF-8", "APP_LANG": "en"}, False),
        ({"LANG": "C", "APP_LANG": "ko"}, True),
        ({}, False),
    ],
)
def test_language_follows_app_lang_then_the_locale(
    project: Project, environment: dict[str, str | None], is_korean: bool
) -> None:
    unset: dict[str, str | None] = dict.fromkeys(("APP_LANG", "LC_ALL", "LC_MESSAGES", "LANG"))
    done = project.run("lake.py", "--help", env=unset | environment | {"PYTHONIOENCODING": "utf-8"})
    assert done.returncode == 0, done.stderr
    assert ("오류의 자세한 위치" in done.stdout) == is_korean


def test_missing_catalogue_is_an_error(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(i18n, "CATALOGUES", tmp_path)
    monkeypatch.setattr(i18n, "_language", "ko")
    i18n._catalogue.cache_clear()
    with pytest.raises(FileNotFoundError):
        i18n.tr("file")


def test_fields_of_a_message_are_not_formatted_again() -> None:
    assert i18n.tr("no such file: {path}", path="{0.__class__}") == "no such file: {0.__class__}"


@pytest.mark.parametrize(("count", "text"), [(0, "0 images in a"), (1, "1 image in a"), (2, "2 images in a")])
def test_english_has_a_singular_and_a_plural(count: int, text: str) -> None:
    assert i18n.trn("{count} image in {folder}", "{count} images in {folder}", count, folder="a") == text


def test_korean_has_one_form_and_its_placeholders_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = ("{count} image in {folder}", "{count} images in {folder}")
    monkeypatch.setattr(catalogue, "extracted", lambda: {message})
    for name, path in (("PO", catalogue.PO), ("MO", catalogue.MO)):
        monkeypatch.setattr(catalogue, name, tmp_path / "ko/LC_MESSAGES" / path.name)
    monkeypatch.setattr(catalogue, "ROOT", tmp_path)
    written = Catalog(locale="ko", fuzzy=False)
    written.add(message, ("{folder}의 이미지 {number}개",))
    catalogue.PO.parent.mkdir(parents=True)
    with catalogue.PO.open("wb") as stream:
        write_po(stream, written)
    catalogue.update()
    assert [line.split(":")[0] for line in catalogue.problems()] == ["placeholders differ"]
    catalogue.PO.write_text(catalogue.PO.read_text().replace("{number}", "{count}"))
    catalogue.update()
    assert catalogue.problems() == []
    monkeypatch.setattr(i18n, "CATALOGUES", tmp_path)
    i18n._catalogue.cache_clear()
    monkeypatch.setattr(i18n, "_language", "ko")
    try:
        assert [i18n.trn(*message, count, folder="a") for count in (1, 2)] == ["a의 이미지 1개", "a의 이미지 2개"]
    finally:
        i18n._catalogue.cache_clear()
