"""The command of a Ray job that runs scaler on the Python of the cluster."""

from shlex import join

# Ray runs a job's command in a shell whose PATH is that of ``ray start``. A cluster that was started as
# ``/path/.venv/bin/ray start`` has another Python on that PATH, or none. Then the command takes the Python of the Ray
# worker that started the shell: the one beside the Ray that the worker has loaded, which is another one than the
# worker's executable in a virtual environment. A PATH whose Python has Ray comes first: with pip in runtime_env it is
# that of the environment which Ray made for the job. Without /proc, as on macOS, it is the ``python`` on the PATH.
_FIND = (
    """python -c 'import importlib.util as u; exit(u.find_spec("ray") is None)' 2>/dev/null && P=python || """
    r"""P=$(sed -n '\|/ray/_raylet.so$|{s|^[^/]*\(/.*\)/lib[^/]*/python[^/]*/[^/]*/ray/.*|\1/bin/python|p;q}' """
    "/proc/$PPID/maps 2>/dev/null); "
    """command -v "$P" >/dev/null || P=$(readlink /proc/$PPID/exe || echo python)"""
)


def driver_command(*arguments: str) -> str:
    """Return the shell command that runs ``scaler`` with these arguments on the Python that the cluster's Ray runs on.

    The shell becomes that Python, so that a signal of Ray reaches it.
    """
    return f'{_FIND}; exec "$P" -m scaler {join(arguments)}'
