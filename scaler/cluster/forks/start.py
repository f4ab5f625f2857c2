"""Start the fork server beside an embedded cluster, and make the cluster use it."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import scaler
from scaler.cluster.forks import client
from scaler.cluster.ray_session import set_environment
from scaler.cluster.start_parameters import start_parameters

HERE = Path(__file__).resolve().parent
MOST_WAITING = 1024  # clients
# Without these, imports would start threads: a process with threads cannot be forked safely.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}


@contextmanager
def fork_server(folder: str, *, niceness: int) -> Iterator[None]:
    """Run a fork server for the length of a ``with`` block; a Ray cluster that is started in it uses the server.

    Ray must be imported before, with the environment of the cluster.

    The server ends with this process, however this process ends. Its output is in ``fork_server.log``.

    Args:
        folder: an existing folder that only this user can enter, for the socket and the log.
        niceness: of the workers' session; 0: the workers get as much of the CPUs as any other session.
    """
    address = str(Path(folder, "fork_server"))
    added = {name: value for name, value in ONE_THREAD.items() if name not in os.environ}
    package = Path(scaler.__file__).parents[1]
    with socket.socket(socket.AF_UNIX) as listening, open(Path(folder, "fork_server.log"), "wb") as log:
        listening.bind(address)
        listening.listen(MOST_WAITING)
        with set_environment({client.SERVER: address}):
            server = subprocess.Popen(
                [sys.executable, str(HERE / "server.py"), str(listening.fileno()), str(package), str(niceness), *added],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[listening.fileno()],
                env={**os.environ, **added},
                start_new_session=True,  # Ctrl-C is for the driver
            )
            listening.close()  # when the server ends, its clients are refused at once
            try:
                with start_parameters(setup_worker_path=str(HERE / "client.py")):
                    yield
            finally:
                server.kill()
                server.communicate()
