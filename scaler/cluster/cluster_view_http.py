"""What a Ray cluster that is reached over HTTP offers: a Ray job on its head looks at it."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import scaler
from scaler.cluster.cluster_view import ClusterView, NodeView
from scaler.cluster.driver_python import driver_command
from scaler.cluster.jobs_client import JobsClient
from scaler.cluster.ray_jobs import printed_error
from scaler.cluster.versions import Versions
from scaler.errors import ClusterError
from scaler.masking import mask_text

LOOK_S = 120.0  # the job gets this version of scaler, and each node starts a process to answer
POLL_S = 0.5


def view_over_http(address: str) -> ClusterView:
    """Return what a cluster offers, from a Ray job ``scaler env`` on its head, which is deleted at the end.

    Args:
        address: ``http(s)://host:port``.

    Raises:
        ClusterError: the cluster cannot be reached, refuses this process, or the job fails.
    """
    client = JobsClient(address)
    job = client.call(
        "submit_job",
        within_s=None,
        entrypoint=driver_command("env", "--address", "auto", "--json"),
        runtime_env={"py_modules": [str(Path(scaler.__file__).parent)]},
        entrypoint_num_cpus=0,
    )
    until = monotonic() + LOOK_S
    while not client.call("get_job_status", job).is_terminal():
        if monotonic() > until:
            client.call("stop_job", job)
            raise ClusterError(f"the Ray job {job} at {client.shown} has not ended for {LOOK_S:.0f} s.", _LOOK)
        sleep(POLL_S)
    log = client.call("get_job_logs", job)
    client.call("delete_job", job)
    found = cluster_in(log)
    if found is None:
        raise not_viewed(log, shown=client.shown)
    return found


_LOOK = "On a node of the cluster: scaler env --address auto"


def not_viewed(log: str, *, shown: str) -> ClusterError:
    """Return the error of a job that has printed no cluster: the error that it has printed, or its last line.

    Args:
        log: what the job has printed.
        shown: address of the cluster, without its password.
    """
    lines = [line for line in log.splitlines() if line.strip()]
    problem, *remedy = printed_error(lines) or (lines[-1:] or ["it printed nothing"])
    problem = mask_text(problem.strip()).rstrip(".")
    return ClusterError(
        f"the cluster at {shown} cannot run scaler env: {problem}.", "\n".join([*map(mask_text, remedy), _LOOK])
    )


def cluster_in(log: str) -> ClusterView | None:
    """Return the cluster in what ``scaler env --json`` printed, after lines of Ray; None: there is none."""
    begin = re.search(r"^\{$", log, re.MULTILINE)
    if begin is None:
        return None
    values: Any = json.JSONDecoder().raw_decode(log, begin.start())[0]
    cluster: Mapping[str, Any] | None = values["cluster"]
    if cluster is None:
        return None
    nodes = [
        NodeView(**{**node, "versions": Versions(**node["versions"]) if node["versions"] is not None else None})
        for node in cluster["nodes"]
    ]
    return ClusterView(**{**cluster, "nodes": nodes})
