"""An embedded lakeFS for one machine: its REST API in this process, over one directory, with no server to install."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .http_server.server import LocalServer

__all__ = ["start"]


def start(directory: Path, port: int = 0) -> LocalServer:
    """Serve `directory` (created if missing) on 127.0.0.1; port 0 takes a free one. Raise OSError if it is in use."""
    from .http_server.server import LocalServer  # here, so that importing the package costs nothing

    return LocalServer(directory, port)
