"""A Python whose large packages are loaded already: most of a command's time is the import of torch and MLflow.

`python preloaded.py serve SOCKET` imports them once, then runs each command in a fork of itself. `python preloaded.py run
SOCKET ARGUMENTS` has such a command run with its own arguments, directory, environment and standard streams, and ends as it
ends: with its exit code or by its signal. Nothing of the project is loaded before the fork: every command reads the code of
its own directory. The server ends when its standard input does, which is when the process that started it ends.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import io
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "torchvision",
    "mlflow",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
    "lakefs_sdk",
    "matplotlib.pyplot",
    "PIL.Image",
    "scipy.stats",
)
# What Python and these packages read when they start or are imported: a command with such a change needs its own start.
READ_AT_START = ("PYTHON", "LD_", "LANG", "LC_", "OMP_", "MKL_", "KMP_", "CUDA_", "MPL")


def start_server(address: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start the server, and wait until it listens at the address, a path of at most 100 characters."""
    command = [sys.executable, str(Path(__file__)), "serve", str(address)]
    server = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE)
    while not address.exists():
        assert server.poll() is None, "the preloaded Python ended"
        time.sleep(0.05)
    return server


def client_command(address: Path) -> list[str]:
    """Return the beginning of a command line that the server runs: the script and its arguments follow."""
    return [sys.executable, "-S", "-E", str(Path(__file__)), "run", str(address)]


def start_differs(environment: Mapping[str, str], server: Mapping[str, str]) -> bool:
    """Tell whether a command with this environment needs a start of its own."""
    wanted, have = (
        {name: value for name, value in values.items() if name.startswith(READ_AT_START)}
        for values in (environment, server)
    )
    return wanted != have


def serve(path: str) -> dict[str, Any] | None:
    """Answer requests until standard input ends; in the fork of a request, return that request."""
    for name in PACKAGES:
        __import__(name)
    gc.freeze()  # else a collection in a fork writes to the pages of all these objects
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors are not waited for
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(16)
        while 0 not in select.select([listener.fileno(), 0], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                return supervise(connection)
            connection.close()
    os._exit(0)


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
        connection.sendall(struct.pack("i", code))
    os._exit(0)


def end(request: dict[str, Any]) -> None:
    """Execute the request and end this process as the interpreter does, except that no module is taken apart.

    To free the objects of all packages takes two seconds, because a fork copies each memory page that it writes to.
    """
    code = 0
    try:
        execute(request)
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        if isinstance(exit_.code, str):
            print(exit_.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are not daemons
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


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
        answer = connection.recv(4)
    code: int = struct.unpack("i", answer)[0] if answer else 1
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    if sys.argv[1] == "run":
        sys.exit(request(sys.argv[2], sys.argv[3:]))
    wanted = serve(sys.argv[2])
    if wanted is not None:
        end(wanted)
