"""Random sequences of uploads, deletions, commits, resets and merges match a model of plain dictionaries."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from lakefs_sdk import ResetCreation, exceptions

from tests.lakefs.conftest import Repo, open_repo
from tests.support.servers import Server

Tree = dict[str, str]
PATHS = st.sampled_from(["a", "a/", "a/b", "a/b/c", "a.b", "b", "한글/1", "z z"])
BRANCHES = st.sampled_from(["main", "dev"])


@dataclass
class Branch:
    commits: list[Tree] = field(default_factory=lambda: [{}])
    staged: Tree = field(default_factory=dict)


class Model(RuleBasedStateMachine):
    open: Callable[[], Repo]

    @initialize()
    def begin(self) -> None:
        self.repo = self.open()
        self.repo.branch("dev")
        self.branches = {"main": Branch(), "dev": Branch()}
        self.base: Tree = {}  # of the last common ancestor
        self.number = itertools.count()

    @rule(branch=BRANCHES, path=PATHS, content=st.sampled_from(["1", "2", "three"]))
    def put(self, branch: str, path: str, content: str) -> None:
        self.repo.put(path, content, branch)
        self.branches[branch].staged[path] = content

    @rule(branch=BRANCHES, path=PATHS)
    def delete(self, branch: str, path: str) -> None:
        self.repo.delete(path, branch)
        self.branches[branch].staged.pop(path, None)

    @rule(branch=BRANCHES)
    def reset(self, branch: str) -> None:
        self.repo.api.branches_api.reset_branch(self.repo.name, branch, ResetCreation(type="reset"))
        self.branches[branch].staged = dict(self.branches[branch].commits[-1])

    @rule(branch=BRANCHES)
    def commit(self, branch: str) -> None:
        model = self.branches[branch]
        try:
            self.repo.commit(branch, f"{next(self.number)}")  # equal commits within one second have the same id
        except exceptions.BadRequestException:
            assert model.staged == model.commits[-1]
        else:
            assert model.staged != model.commits[-1]
            model.commits.append(dict(model.staged))

    @rule(source=BRANCHES, strategy=st.sampled_from(["", "source-wins", "dest-wins"]))
    def merge(self, source: str, strategy: str) -> None:
        destination = "dev" if source == "main" else "main"
        model, theirs = self.branches[destination], self.branches[source].commits[-1]
        ours, base = model.commits[-1], self.base
        paths = {*base, *ours, *theirs}
        changed = {path for path in paths if base.get(path) != theirs.get(path)}
        conflicts = {path for path in changed if ours.get(path) not in (base.get(path), theirs.get(path))}
        refused = 400 if model.staged != ours or not changed else 409 if conflicts and not strategy else 0
        try:
            self.repo.merge(source, destination, strategy=strategy)
        except exceptions.ApiException as error:
            assert error.status == refused
            return
        assert not refused
        taken = changed - (conflicts if strategy == "dest-wins" else set())
        merged = {path: (theirs if path in taken else ours).get(path) for path in paths}
        model.staged = {path: content for path, content in merged.items() if content is not None}
        model.commits.append(dict(model.staged))
        self.base = theirs

    @invariant()
    def agrees(self) -> None:
        for name, model in self.branches.items():
            committed = model.commits[-1]
            assert self.repo.paths(name, amount=3) == sorted(model.staged, key=str.encode)
            assert self.repo.paths(f"{name}@") == sorted(committed, key=str.encode)
            changed = {p for p in {*committed, *model.staged} if committed.get(p) != model.staged.get(p)}
            assert [path for path, _ in self.repo.staged(name)] == sorted(changed, key=str.encode)

    def teardown(self) -> None:
        for name, model in self.branches.items():
            for age, tree in enumerate(reversed(model.commits[1:])):
                assert {path: self.repo.get(path, f"{name}~{age}").decode() for path in tree} == tree


def test_random_operations_match_dictionary_model(lakefs_server: Server) -> None:
    class Machine(Model):
        @staticmethod
        def open() -> Repo:
            return open_repo(lakefs_server)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=25 if lakefs_server.kind == "embedded" else 5,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
