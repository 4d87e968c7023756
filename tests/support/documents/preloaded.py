"""A Python whose large packages are loaded already: most of a command's time is the import of torch and MLflow.

`python preloaded.py serve SOCKET` imports them once, then runs each command in a fork of itself. `python preloaded.py run
SOCKET ARGUMENTS` has such a command run with its own arguments, directory, environment and standard streams, and ends with
its exit code. Nothing of the project is loaded before the fork: every command reads the code of its own directory.
"""

from __future__ import annotations

import array
import contextlib
import io
import json
import os
import select
import signal
import socket
import sys
from typing import Any

PACKAGES = ("torch", "torchvision", "mlflow", "lakefs_sdk", "matplotlib.pyplot", "PIL.Image", "scipy.stats")


def serve(path: str) -> dict[str, Any] | None:
    """Answer requests until the process is killed; in the fork of a request, return that request."""
    for name in PACKAGES:
        __import__(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors are not waited for
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(16)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                return supervise(connection)
            connection.close()


def supervise(connection: socket.socket) -> dict[str, Any] | None:
    """Fork once more: return the request in the child; end with its exit code sent, or with it killed, in the parent."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, ancillary, _, _ = connection.recvmsg(1 << 20, socket.CMSG_SPACE(3 * 4))
    streams = array.array("i", ancillary[0][2])
    child = os.fork()
    if child == 0:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        connection.close()
        request: dict[str, Any] = json.loads(message)
        return request
    for stream in streams:  # else a reader of the command's output would wait for this process, too
        os.close(stream)
    for number in range(3):
        os.close(number)
    ended = os.pidfd_open(child)
    ready, _, _ = select.select([ended, connection.fileno()], [], [])
    if ended not in ready:  # the client is gone
        os.kill(child, signal.SIGTERM)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):
        connection.sendall(bytes([code if code >= 0 else 128 - code]))
    os._exit(0)


def execute(request: dict[str, Any]) -> None:
    """Do what the interpreter does with these arguments: a script, `-m MODULE` or `-c CODE`."""
    import runpy

    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8")  # those of the server are of its files
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8")
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), encoding="utf-8", line_buffering=True)
    arguments = request["arguments"]
    if arguments[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *arguments[2:]], ""
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    elif arguments[0] == "-m":
        sys.argv, sys.path[0] = arguments[1:], os.getcwd()
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = arguments, os.path.dirname(os.path.abspath(arguments[0]))
        runpy.run_path(arguments[0], run_name="__main__")


def request(path: str, arguments: list[str]) -> int:
    """Have a command run; return its exit code. SIGTERM ends this process, whereupon the command is ended."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(path)
        wanted = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
        streams = array.array("i", [0, 1, 2])
        connection.sendmsg([json.dumps(wanted).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
        answer = connection.recv(1)
        return answer[0] if answer else 1


if __name__ == "__main__":
    if sys.argv[1] == "run":
        sys.exit(request(sys.argv[2], sys.argv[3:]))
    wanted = serve(sys.argv[2])
    if wanted is not None:
        execute(wanted)
