"""The one place where an exception of Ray becomes an error of ours.

Ray raises classes of its own, and plain ``Exception``, ``OSError``, ``RuntimeError`` and ``ValueError`` as well. At its
start every one of them is Ray's (``start_error``); later its own are (``ray_errors``).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from scaler.errors import ClusterError, ScalerError
from scaler.masking import mask_text

_TOKEN_SIGNS = ("AuthenticationError", "InvalidAuthToken", "Unauthenticated", "authentication token")
_SETUP_SIGNS = ("RuntimeEnvSetupError", "runtime_env", "runtime env")


def start_error(error: BaseException, *, address: str | None) -> ScalerError:
    """Return what it means that Ray could not be started, or connected to.

    Args:
        error: what Ray raised, whatever its class.
        address: of a running cluster; None: one was to be started here.
    """
    if isinstance(error, ScalerError):
        return error
    texts = " ".join(f"{type(link).__name__} {_text(link)}" for link in _chain(error))
    where = "on this machine" if address is None else f"at {address}"
    said = mask_text((_text(error).strip() or type(error).__name__).splitlines()[0]).rstrip(". ")
    if address is not None and any(sign in texts for sign in _TOKEN_SIGNS):
        return ClusterError(
            f"the Ray cluster {where} does not accept this process: its token is missing or another one.",
            "Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to the cluster's token.",
        )
    if any(sign in texts for sign in _SETUP_SIGNS):
        return ClusterError(
            f"the Ray cluster {where} cannot give its nodes the job's folder: {said}.",
            "Name what the workers do not need in a file .rayignore beside the job, one pattern a line.",
        )
    if "AF_UNIX" in texts:
        return ClusterError(
            f"no Ray cluster {where}: {said}.",
            "Ray's files lie below RAY_TMPDIR, and the paths of its sockets may not be longer: set it to a short path.",
        )
    if "timed out" in texts and address is None:
        return ClusterError(
            f"no Ray cluster {where}: it did not start in time: {said}.",
            "Try again when this machine has less to do, or run one worker without Ray: --address none --workers 1.",
        )
    if address is None:
        return ClusterError(
            f"no Ray cluster {where}: {said}.",
            "--verbose shows Ray's log. One worker runs without Ray: --address none --workers 1.",
        )
    return ClusterError(
        f"no Ray cluster {where}: {said}.",
        "Give the address that ray start --head printed, or leave --address out: then a cluster is started here.",
    )


@contextmanager
def ray_errors(run_id: str) -> Iterator[None]:
    """Turn what Ray raises in a ``with`` block into an error of ours; what is no error of Ray's passes.

    Args:
        run_id: of the run that Ray carries; says how to continue.
    """
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        raise run_error(error, run_id=run_id) from error


def run_error(error: BaseException, *, run_id: str) -> ScalerError:
    """Return what an exception of Ray means to a run that it carries."""
    for link in _chain(error):
        cause = getattr(link, "cause", None)  # a RayTaskError's: what was raised in the other process
        if isinstance(cause, ScalerError):
            return cause
    texts = " ".join(f"{type(link).__name__} {_text(link)}" for link in _chain(error))
    if any(sign in texts for sign in _SETUP_SIGNS):
        return ClusterError(
            f"Ray could not prepare a node for the workers: {mask_text(_last_line(error)).rstrip('.')}.",
            f"Correct what it names, then continue: scaler resume {run_id}.",
        )
    return ClusterError(
        f"Ray lost the run: {type(error).__name__}: {mask_text(_last_line(error)).rstrip('.')}.",
        f"--verbose shows Ray's log. Continue from the newest checkpoint: scaler resume {run_id}.",
    )


def head_lost(gcs_address: str, *, seconds: float, run_id: str) -> ClusterError:
    """Return the error of a cluster whose head has not answered for some time."""
    return ClusterError(
        f"the head of the Ray cluster, {gcs_address}, has not answered for {seconds:.0f} s: it ended, or cannot be "
        "reached.",
        f"Start the cluster again, then continue from the newest checkpoint: scaler resume {run_id}.",
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _last_line(error: BaseException) -> str:
    lines = [line for line in _text(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _text(error: BaseException) -> str:
    """An error's text; some of Ray's cannot be printed without a cluster."""
    try:
        return str(error)
    except Exception:
        return ""
