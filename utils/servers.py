"""Connections to lakeFS and MLflow that are made when they are first needed."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self

from config import Settings
from utils import lakefs_utils, mlflow_utils

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from utils.lakefs_utils import LakeFS


class Servers:
    """The servers of the settings; a command that needs only one of them, or none, contacts no other."""

    def __init__(
        self,
        settings: Settings,
        read_only: bool = True,
        client: MlflowClient | None = None,
        lake: LakeFS | None = None,
    ) -> None:
        """Prepare the connections; `read_only` is about MLflow's database, `client` and `lake` are ones that exist."""
        self.settings, self.read_only = settings, read_only
        self._client, self._given, self._lake, self._stack = client, lake, lake, ExitStack()

    @cached_property
    def client(self) -> MlflowClient:
        """The client of MLflow. Raises AppError if it cannot be reached."""
        return self._client or mlflow_utils.connect(self.settings, self.read_only)

    @property
    def lake(self) -> LakeFS:
        """The client of lakeFS; after `close`, a new one. Raises AppError if it cannot be reached."""
        if self._lake is None:
            self._lake = self._stack.enter_context(lakefs_utils.connect(self.settings))
        return self._lake

    def close(self) -> None:
        """Close the connection to lakeFS, and stop the embedded server, if it was started here."""
        with self._stack.pop_all():
            self._lake = self._given

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
