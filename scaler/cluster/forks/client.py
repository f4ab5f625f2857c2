"""Start one worker: the script that an embedded cluster's raylet runs instead of Ray's ``setup_worker.py``.

It imports nothing of scaler or Ray, which would take longer than everything else that it does.
"""

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

SERVER = "SCALER_FORK_SERVER"  # environment variable: the server's socket
LONGEST_WAIT_S = 40.0  # for the server; Ray gives up a worker that has not started after 60 s
NO_JOB = set("f")  # the digits of the job id of a worker that Ray starts before there is a job
CONTEXT, LANGUAGE = "--serialized-runtime-env-context=", "--language="
LENGTH_BYTES = 4


def main(arguments: list[str]) -> None:
    """Become a worker, or have it forked and end.

    Args:
        arguments: of Ray's ``setup_worker.py``.
    """
    context = json.loads(
        next((each.removeprefix(CONTEXT) for each in arguments if each.startswith(CONTEXT)), "") or "{}"
    )
    worker = [each for each in arguments if not each.startswith((CONTEXT, LANGUAGE))]
    if not is_plain(context, worker):
        os.execv(sys.executable, [sys.executable, str(setup_script()), *arguments])
    os.environ.update(context.get("env_vars", {}))
    with suppress(OSError):  # there is no server, or it does not answer
        if set(os.environ.get("RAY_JOB_ID", "f")) != NO_JOB and is_forked(worker):
            os._exit(0)
    os.execv(sys.executable, [sys.executable, *worker])


def setup_script() -> Path:
    """Return Ray's script that sets a worker up, without importing Ray."""
    found = find_spec("ray")
    if found is None or found.origin is None:
        raise SystemExit("Ray is not installed")
    return Path(found.origin).parent / "_private/workers/setup_worker.py"


def is_plain(context: dict[str, object], worker: list[str]) -> bool:
    """Return whether Ray would only set environment variables, and run the worker's script with this Python."""
    variables = context.get("env_vars") or {}
    return (
        not context.get("command_prefix")
        and not context.get("override_worker_entrypoint")
        and context.get("py_executable", sys.executable) == sys.executable
        and isinstance(variables, dict)
        and not any("$" in value for value in variables.values())  # Ray replaces names of variables
        and worker[0].endswith("default_worker.py")
    )


def is_forked(worker: list[str]) -> bool:
    """Ask the server to run a worker's script in a fork, with this process's files, folder and environment.

    Args:
        worker: the script and its arguments.

    Returns:
        Whether the fork is there; it waits for this process to end.

    Raises:
        OSError: the server cannot be reached, or does not answer.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(LONGEST_WAIT_S)
        connection.connect(os.environ[SERVER])
        request = json.dumps(
            {
                "worker": worker,
                "environment": dict(os.environ),
                "folder": os.getcwd(),
                "blocked_signals": [int(each) for each in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
                "niceness": os.getpriority(os.PRIO_PROCESS, 0),
                "oom_score_adj": Path("/proc/self/oom_score_adj").read_text(),
            }
        ).encode()
        socket.send_fds(connection, [len(request).to_bytes(LENGTH_BYTES, "big")], [0, 1, 2])
        connection.sendall(request)
        if not connection.recv(1):  # the server does not want to
            return False
        connection.sendall(b"!")  # this process has not given up
        return True


if __name__ == "__main__":
    main(sys.argv[1:])
