"""``ray start`` with less to load: the dashboard serves jobs and the state of actors; a node waits for its head.

Run: python benchmarks/start_node.py OPTIONS OF RAY START
"""

import socket
import sys
from time import sleep
from typing import Any

import ray.scripts.scripts as scripts
from ray._private import services

DASHBOARD_MODULES = "JobHead,NodeHead,StateHead"  # of nine, each a process; the cleaner of Ray Train asks StateHead
WAIT_S = 0.1


def wait_for_head(address: str) -> None:
    """Wait until the head listens."""
    host, _, port = address.rpartition(":")
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            sleep(WAIT_S)
        else:
            return


def main(options: list[str]) -> None:
    """Start a node as ``ray start`` does."""
    start_process = services.start_ray_process

    def start_less(command: list[str], *arguments: Any, **more: Any) -> Any:
        if any(part.endswith("dashboard.py") for part in command):
            command = [*command, f"--modules-to-load={DASHBOARD_MODULES}"]
        return start_process(command, *arguments, **more)

    services.start_ray_process = start_less
    scripts.get_ray_client_dependency_error = lambda: "no Ray Client"  # it would be one more process
    for option in options:
        if option.startswith("--address="):
            wait_for_head(option.removeprefix("--address="))
    scripts.start.main(options)


if __name__ == "__main__":
    main(sys.argv[1:])
