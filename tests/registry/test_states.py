"""Every state that people can bring the registry into by MLflow's page: never a wrong model, always a command that works."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import secrets
import shlex
import sqlite3
from collections.abc import Callable, Iterator

import pytest

import register_model
from core import console
from core.errors import AppError, ExitCode, UsageError
from registry.choice import selection
from registry.choice.selection import select_model
from registry.promotion import Promotion
from registry.state import read_state
from tests.support import servers
from tests.support.lab import Lab, open_lab
from utils.lineage import Origin
from utils.run_names import CHAMPION
from utils.servers import Servers
from versioning.provenance.verdict import CHALLENGER

VAL = [f"v{i}" for i in range(12)]
QUALITIES = (0.5, 0.7, 0.4)  # v1 and then v2 become champion, v3 challenger


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, list[str]]]:
    """Three finished runs, which each test registers under a new name."""
    folder, patch = tmp_path_factory.mktemp("states"), pytest.MonkeyPatch()
    with (
        patch.context() as context,
        servers.embedded(folder / "lakefs") as server,
        open_lab(server, folder / "lab", context) as lab,
    ):
        data = lab.data(["t"], VAL)
        yield lab, [lab.run(quality, data).info.run_id for quality in QUALITIES]


@pytest.fixture
def lab(trained: tuple[Lab, list[str]], monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A registry with champion v2, which replaced v1, and challenger v3."""
    shared, runs = trained
    settings = dataclasses.replace(shared.settings, registered_model=f"model-{secrets.token_hex(4)}")
    lab = dataclasses.replace(shared, settings=settings)
    for key, value in lab.environment().items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("REGISTER_ACCEPT_WARNINGS", "false")  # else a call promotes what was registered before
    monkeypatch.setenv("REGISTER_CONFIDENCE", "0")
    for run in runs:
        Promotion(lab.registry, lab.lake).register(lab.client.get_run(run))
    assert lab.aliases() == {CHAMPION: "2", CHALLENGER: "3"}
    return lab


def delete(*versions: str) -> Callable[[Lab], None]:
    def apply(lab: Lab) -> None:
        for version in versions:
            lab.client.delete_model_version(lab.name, version)

    return apply


def alias_to_deleted(lab: Lab) -> None:
    """SQLite's store deletes the alias with its version; other stores keep it."""
    lab.client.delete_model_version(lab.name, "2")
    path = str(lab.settings.mlflow_tracking_uri).removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        row = (lab.name, CHAMPION, 2)
        database.execute("INSERT INTO registered_model_aliases (name, alias, version) VALUES (?, ?, ?)", row)


def delete_alias(lab: Lab) -> None:
    lab.client.delete_registered_model_alias(lab.name, CHAMPION)


def rolled_back_then_deleted_alias(lab: Lab) -> None:
    lab.promotion.rollback(None)
    delete_alias(lab)


def archive(*versions: str) -> Callable[[Lab], None]:
    def apply(lab: Lab) -> None:
        for version in versions:
            lab.client.transition_model_version_stage(lab.name, version, "Archived")

    return apply


def foreign(lab: Lab) -> str:
    """Register a version as MLflow's page does, without our tags; return its number."""
    source = str(lab.client.get_model_version(lab.name, "1").source)
    return str(lab.client.create_model_version(lab.name, source).version)


def foreign_champion(lab: Lab) -> None:
    lab.client.set_registered_model_alias(lab.name, CHAMPION, foreign(lab))


def only_foreign(lab: Lab) -> None:
    foreign_champion(lab)
    delete("1", "2", "3")(lab)


STATES: dict[str, Callable[[Lab], None]] = {
    "champion alias deleted": delete_alias,
    "champion deleted": delete("2"),
    "champion and its predecessor deleted": delete("1", "2"),
    "alias of a deleted version": alias_to_deleted,
    "all versions deleted": delete("1", "2", "3"),
    "rolled back, then alias deleted": rolled_back_then_deleted_alias,
    "champion archived": archive("2"),
    "all archived": archive("1", "2", "3"),
    "champion not registered by us": foreign_champion,
    "only a version that is not ours": only_foreign,
}
COMMAND = re.compile(r"python register_model\.py((?: --[\w-]+(?: [\w.]+)?)*)")


def follow(text: str) -> str:
    """Run the command of register_model.py that a message names, and those that its messages name; return the last text."""
    for _ in range(3):
        found = COMMAND.search(text)
        assert found, f"no command in: {text}"
        try:
            assert register_model.main(shlex.split(found[1])) in (0, 3)
        except AppError as error:
            assert "\n" not in str(error)
            text = str(error)
        else:
            return text
    raise AssertionError(f"a circle: {text}")


def infer(lab: Lab) -> Origin | None:
    """Select the model as infer.py does, by none of its options; --serve and --export use the same."""
    return select_model(Servers(lab.settings, client=lab.client, lake=lab.lake))


def text_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Call register_model.py; return its error or its warnings, empty if it worked."""
    capsys.readouterr()
    try:
        assert register_model.main(list(arguments)) == 0
    except AppError as error:
        return str(error)
    return capsys.readouterr().err


@pytest.mark.parametrize("state", STATES)
def test_no_script_falls_back_and_their_commands_lead_to_a_champion(
    lab: Lab, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    STATES[state](lab)
    number = lab.aliases().get(CHAMPION)
    with pytest.raises(UsageError) as caught:
        infer(lab)
    assert (
        caught.value.exit_code == ExitCode.WRONG_USE and "\n" not in str(caught.value) and lab.name in str(caught.value)
    )
    texts = [str(caught.value), text_of(capsys)]  # no run is new: nothing is promoted unasked
    assert lab.aliases().get(CHAMPION) == number
    texts += [text_of(capsys, "--rollback")]
    commands = {COMMAND.search(text)[1] for text in texts if text and COMMAND.search(text)}  # type: ignore[index]
    assert all(COMMAND.search(text) for text in texts if text) and commands
    if texts[2]:  # else the champion's predecessor is in use again
        follow(next((text for text in texts if "--run-id" in text), texts[0]))
    chosen = infer(lab)
    assert chosen is not None and chosen.version is not None


def test_message_lists_versions_with_what_is_known_of_them(lab: Lab) -> None:
    lab.promotion.rollback(None)
    delete_alias(lab)
    archive("1")(lab)
    number = foreign(lab)
    name = lab.name
    text = str(read_state(lab.registry).nothing_to_predict_with())
    assert f"{name} has no champion (available: {name}/{number} (not registered by register_model.py), " in text
    assert f"{name}/3 (challenger), {name}/2 (rolled back), {name}/1 (archived))" in text
    assert text.endswith(
        f"python infer.py --model {name}/3, or make it champion: python register_model.py --rollback 3"
    )


def test_on_a_terminal_the_user_chooses(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    delete_alias(lab)
    monkeypatch.setattr(selection, "is_terminal", lambda: True)
    monkeypatch.setattr(console, "input", lambda _prompt: "3", raising=False)
    chosen = infer(lab)
    assert chosen is not None and chosen.version == f"{lab.name} v1"  # the third of the table, newest first
    monkeypatch.setattr(console, "input", lambda _prompt: "q", raising=False)
    assert infer(lab) is None


def test_named_model_without_champion_is_not_replaced(lab: Lab) -> None:
    delete_alias(lab)
    with pytest.raises(UsageError, match="has no champion"):
        select_model(Servers(lab.settings, client=lab.client, lake=lab.lake), lab.name)
    chosen = select_model(Servers(lab.settings, client=lab.client, lake=lab.lake), f"{lab.name}/1")
    assert chosen is not None and chosen.version == f"{lab.name} v1"


def test_deleted_registered_model_leaves_only_runs_that_were_never_registered(
    lab: Lab, trained: tuple[Lab, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    lab.client.delete_registered_model(lab.name)
    with pytest.raises(UsageError, match="every finished run was registered before") as caught:
        infer(lab)
    follow(str(caught.value))
    assert lab.aliases()[CHAMPION] == "1"
    lab.client.delete_registered_model(lab.name)
    tagged = [lab.client.get_run(run).data.tags["registered_version"] for run in trained[1]]
    lab.client.delete_tag(trained[1][2], "registered_version")  # the worst of the three
    try:
        chosen = infer(lab)
    finally:
        lab.client.set_tag(trained[1][2], "registered_version", tagged[2])
    assert chosen is not None and chosen.run_id == trained[1][2] and chosen.version is None
    assert "no registered model: using the best run." in capsys.readouterr().out


def test_rollback_of_the_only_version_says_so(lab: Lab) -> None:
    delete("1", "3")(lab)
    register_model.main(["--rollback", "2"])
    with pytest.raises(UsageError, match="replaced v1, which was deleted or archived"):
        register_model.main(["--rollback"])


def test_archived_version_is_in_use_again_only_by_an_explicit_rollback(lab: Lab) -> None:
    archive("1", "2")(lab)
    with pytest.raises(UsageError, match="replaced v1, which was deleted or archived"):
        register_model.main(["--rollback"])
    register_model.main(["--rollback", "1"])
    chosen = infer(lab)
    assert chosen is not None and chosen.version == f"{lab.name} v1"
    assert lab.client.get_model_version(lab.name, "1").current_stage == "None"


def test_gate_compares_with_the_champion_only(lab: Lab, trained: tuple[Lab, list[str]]) -> None:
    """Without a champion, a new model is not compared with one that was taken out of use."""
    alias_to_deleted(lab)
    version = Promotion(lab.registry, lab.lake).register(lab.client.get_run(trained[1][1]))
    assert '"against": null' in lab.tags(str(version.version))["gate"]
    assert lab.aliases()[CHAMPION] == str(version.version)
