"""Registration under failures: interrupted or concurrent calls, taken names, corrupt files."""

from __future__ import annotations

import dataclasses
import json
import secrets
import threading
from pathlib import Path
from typing import Any

import pytest

import register_model
from config import Settings
from core.errors import AppError, UsageError
from dataset.faults import DataWarning
from registry import lakefs_tags, promotion
from registry.overview import overview
from registry.promotion import Promotion
from registry.versions import Registry
from tests.support.lab import Lab, open_lab
from tests.support.servers import Server
from utils.lakefs_utils import LakeFS, LakePath, connect
from versioning.migrate import copy_history

VAL = [f"v{i}" for i in range(12)]


@pytest.fixture
def data(lab: Lab) -> LakePath:
    return lab.data(["t"], VAL)


def register(lab: Lab, quality: float, data: LakePath, force: str | None = None) -> str:
    """Register a new run and return its version number."""
    run = lab.run(quality, data)
    return str(lab.promotion.register(run, force).version)


def rollback(lab: Lab, to: str | None = None) -> None:
    target = lab.registry.find(f"{lab.name}/{to}") if to else None
    lab.promotion.rollback(target)


def call(lab: Lab, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Call register_model.py in this process, where `lab.segment_by_quality` replaces inference."""
    for key, value in lab.environment().items():
        monkeypatch.setenv(key, value)
    return register_model.main(list(arguments))


def interrupted_registration(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, quality: float, data: LakePath, step: str = "set_alias"
) -> str:
    """Interrupt a registration before `step` and return its version number."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Registry, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            register(lab, quality, data)
    return str(lab.registry.versions()[0].version)


def test_accept_warnings_promotes_a_run_that_was_registered_before(
    lab: Lab, data: LakePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.run(0.9, data, warnings=(DataWarning("small-split", "val says little", "val"),))
    assert call(lab, monkeypatch) == 3 and lab.aliases() == {"challenger": "1"}
    assert call(lab, monkeypatch) == 0 and lab.aliases() == {"challenger": "1"}, "no run has finished since"
    assert call(lab, monkeypatch, "--accept-warnings") == 0 and lab.aliases()["champion"] == "1"


def test_the_printed_command_promotes_where_the_gate_cannot_decide(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small, warnings = lab.data(["t"], VAL[:2]), (DataWarning("small-split", "val says little", "val"),)
    for number, quality in enumerate((0.4, 0.9), 1):
        run = lab.run(quality, small, warnings=warnings)
        assert call(lab, monkeypatch, "--threshold", "0.1", "--min-gain", "0.01", "--confidence", "0.9") == 3
        options = "--threshold 0.1 --min-gain 0.01" + (" --confidence 0.9" if number == 1 else "")
        options += " --accept-warnings" + (" --confidence 0" if number == 2 else "")
        command = f"python register_model.py --run-id {run.info.run_id} {options}"
        assert f"To promote it all the same: {command}\n" in capsys.readouterr().out
        assert call(lab, monkeypatch, *command.split()[2:]) == 0 and lab.aliases()["champion"] == str(number)


def test_no_command_is_printed_against_a_reason_that_stands(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = lab.data(["t"], VAL[:2])
    lab.run(0.9, small)
    assert call(lab, monkeypatch) == 0
    lab.run(0.4, small)
    assert call(lab, monkeypatch) == 3
    assert "To promote it" not in capsys.readouterr().out, "it is worse"


# --- names in lakeFS ---


def test_rollback_works_after_the_history_was_copied_to_a_server(
    lakefs_server: Server, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy has new commit ids, while MLflow has the old ones."""
    with open_lab(lakefs_server, place / secrets.token_hex(4), monkeypatch) as lab:
        remote = dataclasses.replace(lab.settings, lakefs_repo=f"repo-{secrets.token_hex(6)}")
        local = dataclasses.replace(remote, lakefs_endpoint=None)
        with connect(local, create=True) as embedded:
            lab.settings, lab.lake = local, embedded
            data = lab.data(["t"], VAL)
            register(lab, 0.4, data)
            register(lab, 0.9, data)
            assert lab.aliases() == {"champion": "2"}
        copy_history(remote, str(remote.lakefs_endpoint))
        with connect(remote) as server:
            lab.settings, lab.lake = remote, server
            assert lab.tags("1")["lakefs_model_commit"] not in {commit.id for commit in server.log("main")}
            assert call(lab, monkeypatch, "--rollback") == 0
            assert lab.aliases() == {"champion": "1"}
            assert register(lab, 0.95, data) == "3" and lab.aliases() == {"champion": "3"}


def test_a_lakefs_tag_taken_by_another_registry_gets_a_suffix(
    lab: Lab, data: LakePath, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new mlflow.db counts versions from 1 again, while lakeFS has the tags of the old one."""
    lab.lake.set_tag(f"model-{lab.name}-v1", data.ref)
    assert register(lab, 0.5, data) == "1"
    tags, version = dict(lab.lake.list_refs("tags")), lab.tags("1")
    assert lab.aliases() == {"champion": "1"} and version["registration"] == "done"
    assert version["lakefs_tag"] == f"model-{lab.name}-v1-{version['lakefs_model_commit'][:8]}"
    assert lab.lake.commit(tags[version["lakefs_tag"]]).parents == [version["lakefs_model_commit"]]
    assert tags[f"model-{lab.name}-v1"] == data.ref, "the tag of the other registry stays"
    assert f"used {version['lakefs_tag']}" in capsys.readouterr().out


def test_a_registration_that_cannot_be_finished_does_not_block_other_calls(
    lab: Lab, data: LakePath, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    register(lab, 0.3, data)
    register(lab, 0.5, data)
    assert interrupted_registration(lab, monkeypatch, 0.7, data) == "3"
    tag_commit = lakefs_tags.tag_model_commit

    def refuse(registry: Registry, lake: LakeFS, version: Any) -> None:
        if str(version.version) == "3":
            raise AppError("the server\nsays no")
        tag_commit(registry, lake, version)

    monkeypatch.setattr(promotion, "tag_model_commit", refuse)
    assert call(lab, monkeypatch) == 1, "the only work of this call failed"
    assert f"{lab.name} v3 stays unfinished: the server says no" in capsys.readouterr().err
    assert call(lab, monkeypatch, "--rollback") == 0
    assert lab.aliases() == {"champion": "1"}
    run = lab.run(0.9, data)
    assert call(lab, monkeypatch) == 0
    assert lab.aliases()["champion"] == "4" and lab.tags("4")["run_id"] == run.info.run_id


def test_the_next_call_deletes_a_branch_left_by_a_kill(
    lab: Lab, data: LakePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, delete = lab.run(0.5, data), lab.lake.refs.delete_branch

    def killed(*branch: str) -> None:
        if dict(lab.lake.list_refs("tags")):
            raise KeyboardInterrupt
        delete(*branch)

    with monkeypatch.context() as patch:  # after tagging, before its branch is deleted
        patch.setattr(lab.lake.refs, "delete_branch", killed)
        with pytest.raises(KeyboardInterrupt):
            lab.promotion.register(run)
    assert f"tag-model-{lab.name}-v1" in dict(lab.lake.list_refs("branches"))
    lab.promotion.finish_pending()
    assert [name for name, _ in lab.lake.list_refs("branches")] == ["main"] and lab.aliases() == {"champion": "1"}


def test_only_the_experiment_branch_of_a_champion_is_merged(
    lab: Lab, data: LakePath, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    better, worse = lab.run(0.9, data, experiment="better"), lab.run(0.3, data, experiment="worse")
    assert call(lab, monkeypatch, "--run-id", better.info.run_id) == 0
    main = lab.lake.head()
    assert lab.lake.contains("main", better.data.tags["lakefs_model_commit"])
    assert call(lab, monkeypatch, "--run-id", worse.info.run_id) == 3
    assert lab.lake.head() == main and "kept the branch worse" in capsys.readouterr().out
    assert [name for name, _ in lab.lake.list_refs("branches")] == ["main", "worse"]
    assert call(lab, monkeypatch, "--run-id", worse.info.run_id, "--force", "wanted") == 0
    assert lab.lake.contains("main", worse.data.tags["lakefs_model_commit"]) and lab.aliases() == {"champion": "2"}
    assert [name for name, _ in lab.lake.list_refs("branches")] == ["main"]


# --- exit codes and verdicts ---


def test_an_interrupted_refusal_is_reported_once_by_the_next_call(
    lab: Lab, data: LakePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(lab, 0.9, data)
    interrupted_registration(lab, monkeypatch, 0.3, data)
    assert call(lab, monkeypatch) == 3
    assert lab.aliases() == {"champion": "1", "challenger": "2"}
    assert call(lab, monkeypatch) == 0, "reported once"


def test_an_interrupted_judgement_does_not_apply_an_older_verdict(
    lab: Lab, data: LakePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(lab, 0.5, data)
    run = lab.run(0.9, data)
    (version,) = [Promotion(Registry(lab.client, stricter_size(lab)), lab.lake).register(run)]
    assert lab.aliases() == {"champion": "1", "challenger": "2"}
    gate = json.loads(lab.tags("2")["gate"]) | {"decision": "champion"}
    lab.client.set_model_version_tag(lab.name, "2", "gate", json.dumps(gate))  # must not be applied
    set_tag = Registry.set_tag
    calls: list[str] = []

    def set_first_tag(registry: Registry, version: Any, key: str, value: str) -> None:
        if calls:
            raise KeyboardInterrupt
        calls.append(key)
        set_tag(registry, version, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "set_tag", set_first_tag)
        with pytest.raises(KeyboardInterrupt):
            Promotion(Registry(lab.client, stricter_size(lab)), lab.lake).register(run)
    lab.promotion.finish_pending()
    assert lab.aliases()["champion"] == "1" and str(version.version) == "2"


def stricter_size(lab: Lab) -> Settings:
    return dataclasses.replace(lab.settings, register_max_mb=1e-6)


def test_force_replaces_a_champion_whose_file_is_corrupt(lab: Lab, data: LakePath) -> None:
    register(lab, 0.9, data)
    lab.client.set_model_version_tag(lab.name, "1", "model_sha256", "0" * 64)
    with pytest.raises(AppError):
        register(lab, 0.95, data)
    assert register(lab, 0.5, data, force="the file is broken") == "2"
    assert lab.aliases() == {"champion": "2"} and "no comparison with the champion v1" in lab.reasons("2")


# --- sequences of calls ---


def test_rollback_returns_to_the_replaced_champion(lab: Lab, data: LakePath) -> None:
    register(lab, 0.5, data)
    register(lab, 0.3, data)
    register(lab, 0.9, data)
    assert lab.aliases() == {"champion": "3", "challenger": "2"}
    rollback(lab, "2")
    assert lab.aliases() == {"champion": "2"}, "a champion is not a challenger"
    rollback(lab)
    assert lab.aliases() == {"champion": "3"} and "rolled_back" not in lab.tags("3")
    assert json.loads(lab.tags("2")["rolled_back"])["to"] == "3"
    rollback(lab)
    assert lab.aliases() == {"champion": "1"}
    with pytest.raises(UsageError, match="v1 replaced no champion"):
        rollback(lab)


def test_a_forced_version_is_no_longer_marked_as_rolled_back(
    lab: Lab, data: LakePath, capsys: pytest.CaptureFixture[str]
) -> None:
    register(lab, 0.5, data)
    run = lab.run(0.9, data)
    lab.promotion.register(run)
    rollback(lab)
    assert "rolled back" in overview(lab.registry)
    lab.promotion.register(run, "it was right")
    assert lab.aliases() == {"champion": "2"}
    assert "rolled back" not in overview(lab.registry)


def test_rollback_rejects_a_version_of_another_model(lab: Lab, data: LakePath, monkeypatch: pytest.MonkeyPatch) -> None:
    register(lab, 0.5, data)
    mine, lab.settings = lab.settings, dataclasses.replace(lab.settings, registered_model=f"{lab.name}-other")
    register(lab, 0.5, data)
    register(lab, 0.9, data)
    other, lab.settings = lab.name, mine
    with pytest.raises(UsageError, match=f"run with REGISTERED_MODEL={other}"):
        call(lab, monkeypatch, "--rollback", f"{other}/1")
    assert lab.registry.aliases(other) == {"champion": "2"}
    assert "rolled_back" not in lab.tags("1")


def test_concurrent_calls_register_a_run_once(lab: Lab, data: LakePath, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.run(0.5, data)
    codes: list[int] = []
    create = Registry.create_version

    def slow(*arguments: Any) -> Any:
        if threading.current_thread() is not second:
            second.start()
            second.join(2)  # without a lock, it would finish here
        return create(*arguments)

    second = threading.Thread(target=lambda: codes.append(call(lab, monkeypatch)))
    monkeypatch.setattr(Registry, "create_version", slow)
    codes.append(call(lab, monkeypatch))
    second.join()
    assert codes == [0, 0]
    assert [str(version.version) for version in lab.registry.versions()] == ["1"]


def test_a_champion_set_by_another_machine_meanwhile_wins(
    lab: Lab, data: LakePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(lab, 0.4, data)
    register(lab, 0.3, data)
    set_alias = Registry.set_alias

    def overtaken(registry: Registry, version: Any, alias: str) -> None:
        set_alias(registry, version, alias)
        if alias == "champion":
            registry.client.set_registered_model_alias(lab.name, "champion", "2")

    monkeypatch.setattr(Registry, "set_alias", overtaken)
    assert register(lab, 0.9, data) == "3"
    assert lab.aliases() == {"champion": "2", "challenger": "3"}
    assert "the champion changed from v1 to v2 meanwhile" in lab.reasons("3")
