"""Runs export_csv.py in processes forked from one that has already imported it.

Importing requests and compiling the script takes half a second of CPU, far more than most runs do,
and the tests start the script hundreds of times. Forking a process that has done both avoids this:
the copy starts at once. It is still a real process, with its own folder, environment, streams and
signals.

Only Linux can do this: see `is_available`. Elsewhere, the tests start the script as a user does.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import run_with_constants

PR_SET_CHILD_SUBREAPER = 36  # of prctl(2)
MAX_REQUEST = 2**18  # bytes; an environment and a few arguments are far smaller


def is_available() -> bool:
    return sys.platform == "linux"


class ForkServer:
    """The process that has imported the script; it exits when its parent does."""

    def __init__(self) -> None:
        # The forked processes are orphaned at once. They have to become children of this process,
        # or it couldn't wait for them.
        if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise OSError("prctl failed")
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(60)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )

    def fork(self, request: dict[str, Any], streams: list[int]) -> int:
        """Start a run with these streams as stdin, stdout and stderr; return its process id."""
        socket.send_fds(self.socket, [json.dumps(request).encode()], streams)
        return int(self.socket.recv(64))

    def close(self) -> None:
        self.socket.close()
        self.process.wait(60)


class ForkedPopen(subprocess.Popen[bytes]):
    """A run that is forked from the server instead of being started from its file.

    Popen's documented methods do the rest. `_execute_child`, which starts the process, isn't
    public, but it is the same in all supported versions of Python.
    """

    def __init__(
        self,
        server: ForkServer,
        arguments: list[str],
        *,
        constants: Mapping[str, object],
        env: Mapping[str, str],
        **options: Any,
    ) -> None:
        self.server = server
        self.constants = constants
        super().__init__(arguments, env=env, **options)

    def _execute_child(self, args: list[str], *others: Any) -> None:
        cwd, env = others[4:6]
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = others[9:15]
        request = {
            "arguments": args,
            "folder": str(cwd),
            "environment": dict(env),
            "constants": self.constants,
        }
        inherited = [0, 1, 2]
        streams = [p2cread, c2pwrite, errwrite]
        for number, stream in enumerate(streams):
            if stream != -1:
                inherited[number] = stream
        self.pid = self.server.fork(request, inherited)
        self._child_created = True
        self._close_pipe_fds(  # type: ignore[attr-defined]
            p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite
        )


#### In the server's own process


def serve(requests: socket.socket, owner: int) -> None:
    """Fork a process for each request until there are no more."""
    while True:
        message, streams, _, _ = socket.recv_fds(requests, MAX_REQUEST, 3)
        if not message:
            return
        child = os.fork()
        if child == 0:
            # Orphaned when its parent exits, the grandchild becomes the owner's child.
            if os.fork() == 0:
                run(json.loads(message), streams, requests, owner)
            os._exit(0)
        os.waitpid(child, 0)
        for stream in streams:
            os.close(stream)


def run(
    request: dict[str, Any], streams: list[int], requests: socket.socket, owner: int
) -> None:
    """Make this process look like a newly started script, and run the script."""
    while os.getppid() != owner:
        time.sleep(0.001)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    sys.argv = ["export_csv.py", *request["arguments"]]
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = open(
        2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faulthandler.register(signal.SIGUSR1)  # shows where a run hangs
    requests.send(str(os.getpid()).encode())
    os.closerange(3, 64)
    replacements = request["environment"].get("PYTHONPATH")
    if replacements:
        # A new interpreter would import this module, in which a test replaces functions.
        sys.path.insert(0, replacements)
        sys.modules.pop("sitecustomize", None)
        importlib.import_module("sitecustomize")
    run_with_constants.run(request["constants"])


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner handles Ctrl-C
    run_with_constants.import_script()
    import boto3  # noqa: F401 - for the runs that use S3

    descriptor, owner = map(int, sys.argv[1:])
    with socket.socket(fileno=descriptor) as requests:
        serve(requests, owner)


if __name__ == "__main__":
    main()
