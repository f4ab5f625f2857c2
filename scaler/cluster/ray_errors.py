"""Turn exceptions of Ray into errors of scaler; no other module does this.

Ray raises its own classes, and also plain ``Exception``, ``OSError``, ``RuntimeError`` and ``ValueError``. While Ray
starts, each of them is an error of the cluster (``start_error``); later only Ray's own classes are (``ray_errors``).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from scaler.cluster.auth_token import token_refused
from scaler.cluster.versions import minor, mismatch_at_connect
from scaler.errors import ClusterError, ScalerError
from scaler.masking import mask_text
from scaler.runs.filesystems import error_chain, message_of

_TOKEN_SIGNS = ("AuthenticationError", "InvalidAuthToken", "Unauthenticated", "authentication token")
_SETUP_SIGNS = ("RuntimeEnvSetupError", "runtime_env", "runtime env")


def start_error(error: BaseException, *, address: str | None) -> ScalerError:
    """Return the error of a cluster that could not be started, or connected to.

    Args:
        error: what Ray raised, whatever its class.
        address: of a running cluster; None: the cluster is embedded.
    """
    if isinstance(error, ScalerError):
        return error
    texts = " ".join(f"{type(link).__name__} {message_of(link)}" for link in error_chain(error, contexts=True))
    where = "on this machine" if address is None else f"at {address}"
    message = mask_text((message_of(error).strip() or type(error).__name__).splitlines()[0]).rstrip(". ")
    if address is not None and any(sign in texts for sign in _TOKEN_SIGNS):
        return token_refused(address)
    if (found := mismatch_at_connect(texts)) is not None:
        return _versions_differ(found, where=where)
    if any(sign in texts for sign in _SETUP_SIGNS):
        return ClusterError(
            f"the Ray cluster {where} cannot send the job's folder to its nodes: {message}.",
            "List what the workers do not need in a file .rayignore beside the job, one pattern a line.",
        )
    if "AF_UNIX" in texts:
        return ClusterError(
            f"no Ray cluster {where}: {message}.",
            "Set RAY_TMPDIR to a shorter path: Ray's sockets are below it, and the length of their paths is limited.",
        )
    if "timed out" in texts and address is None:
        return ClusterError(
            f"no Ray cluster {where}: it did not start in time: {message}.",
            "Try again when this machine is less busy, or run one worker without Ray: --address none --workers 1.",
        )
    if address is None:
        return ClusterError(
            f"no Ray cluster {where}: {message}.",
            "--verbose shows Ray's log. One worker runs without Ray: --address none --workers 1.",
        )
    return ClusterError(
        f"no Ray cluster {where}: {message}.",
        "Give the address that ray start --head printed, or leave --address out to start a cluster on this machine.",
    )


def _versions_differ(found: Mapping[str, str], *, where: str) -> ClusterError:
    ray_there, python_there = found["cluster_ray"], found["cluster_python"]
    return ClusterError(
        f"the Ray cluster {where} has Ray {ray_there} on Python {python_there}, and this process has Ray "
        f"{found['ray']} on Python {found['python']}: Ray does not connect, because their messages and pickles differ.",
        f"Use Python {minor(python_there)} with ray=={ray_there} here, or have the cluster run the driver: "
        "--address http://HEAD:8265.",
    )


@contextmanager
def ray_errors(run_id: str) -> Iterator[None]:
    """Turn an exception of Ray in a ``with`` block into an error of scaler; other exceptions pass.

    Args:
        run_id: of the run, for the command that resumes it.
    """
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        raise run_error(error, run_id=run_id) from error


def run_error(error: BaseException, *, run_id: str) -> ScalerError:
    """Return the error of a run that an exception of Ray ended."""
    for link in error_chain(error, contexts=True):
        cause = getattr(link, "cause", None)  # of a RayTaskError: the exception that another process raised
        if isinstance(cause, ScalerError):
            return cause
    texts = " ".join(f"{type(link).__name__} {message_of(link)}" for link in error_chain(error, contexts=True))
    if any(sign in texts for sign in _SETUP_SIGNS):
        return ClusterError(
            f"Ray could not prepare a node for the workers: {mask_text(_last_line(error)).rstrip('.')}.",
            f"Correct the cause, then continue: scaler resume {run_id}.",
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


def _last_line(error: BaseException) -> str:
    lines = [line for line in message_of(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
