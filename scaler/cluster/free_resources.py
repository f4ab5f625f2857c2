"""Wait until a running cluster has the resources of a job free, or refuse a job that the cluster is too small for."""

import json
from collections.abc import Callable, Mapping, Sequence
from time import monotonic, sleep

from scaler.cluster.capacity import count_workers, require_resources, usable_nodes
from scaler.cluster.gpus import SHARE_OF_TYPE, TYPE, with_type
from scaler.errors import ClusterError
from scaler.job import Job
from scaler.job.mesh import workers_step

POLL_S = 0.5
REPORTED_S = 10.0  # a cluster that has just started has looked at its nodes within this time
FIRST_NOTICE_S, NOTICE_S = 1.0, 30.0  # until the first notice of what is waited for, and between two


def require_free_resources(
    job: Job, *, embedded: bool, on_wait: Callable[[str | None], None], on_poll: Callable[[], None]
) -> None:
    """Return when the cluster has the resources of the job's fewest workers free.

    While they are not free, a pending placement group asks the cluster's autoscaler for them, if there is one.

    Args:
        job: gives the number of workers, their resources, and how long to wait.
        embedded: whether the cluster ends with this process; then nothing else uses it, and nothing is waited for.
        on_wait: called with what is waited for, again when that changes; and with None when the wait is over.
        on_poll: called twice a second while waiting; what it raises ends the wait.

    Raises:
        ClusterError: the cluster is too small and no autoscaler can make it large enough, or ``resources.wait_s`` have
            passed.
    """
    import ray

    resources, workers = job.resources, job.scale.min_workers
    cpus, gpus = resources.cpus_per_worker, resources.gpus
    need = {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount}
    place = dict(need)
    if resources.accelerator_type is not None:
        place[TYPE + resources.accelerator_type] = SHARE_OF_TYPE
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    is_too_small = None
    try:
        of_type = with_type(nodes, resources.accelerator_type)
        require_resources(
            workers=workers, cpus_per_worker=cpus, gpus_per_worker=gpus, nodes=of_type, step=workers_step(job)
        )
    except ClusterError as error:
        if embedded or not has_autoscaler():
            raise
        is_too_small = error

    def are_free() -> bool:
        return count_workers(usable_nodes(), place, held={}, most=workers) >= workers

    if embedded or (is_too_small is None and are_free()):
        return
    group = ray.util.placement_group([place] * workers, strategy="PACK")
    began, noticed, notice_at = monotonic(), "", monotonic() + FIRST_NOTICE_S
    try:
        while not group.wait(timeout_seconds=POLL_S):
            on_poll()
            text = _missing(workers, need, grows=is_too_small is not None)
            now = monotonic()
            if now - began >= resources.wait_s:
                raise ClusterError(
                    f"{text}; the run has waited for {resources.wait_s:g} s.",
                    "Submit again when other programs have finished, with fewer --workers, or wait longer: "
                    "--set resources.wait_s=3600.",
                )
            if text != noticed and now >= notice_at:
                noticed, notice_at = text, now + NOTICE_S
                on_wait(f"{text}. The run fails after {resources.wait_s:g} s (resources.wait_s).")
    finally:
        ray.util.remove_placement_group(group)
    on_wait(None)


def has_autoscaler() -> bool:
    """Return whether the connected cluster has an autoscaler that may add nodes.

    Ray has no such question. Each cluster has a process that reports the types of its nodes; where it adds no nodes, it
    names the type of a node after the node's id. The first autoscaler of Ray reports to Ray's key-value store, and the
    second one to the head.
    """
    import ray

    from scaler.cluster.ray_internals import DEBUG_AUTOSCALING_STATUS, _internal_kv_get, get_cluster_status

    began = monotonic()
    while True:
        reported = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or "{}")
        is_there = not reported or "autoscaler_report" in reported
        if is_there or monotonic() - began > REPORTED_S:
            break
        sleep(POLL_S)  # the process has just started, and has looked at no node yet
    if reported:
        types = reported["autoscaler_report"]["node_type_mapping"] if is_there else {}
    else:
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        nodes = [*status.active_nodes, *status.idle_nodes]
        types = {node.node_id: node.ray_node_type_name for node in nodes}
    return any(kind and kind != f"node_{node_id}" for node_id, kind in types.items())


def _missing(workers: int, need: Mapping[str, float], *, grows: bool) -> str:
    """Return what the job needs, what of it is free, and whether the autoscaler must add nodes."""
    import ray

    total: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    nodes = usable_nodes()
    subject = "1 worker needs" if workers == 1 else f"{workers} workers need"
    needed = " and ".join(f"{workers * amount:g} {name}" for name, amount in need.items())
    free = _listed([(sum(node.free.get(name, 0.0) for node in nodes), total.get(name, 0.0), name) for name in need])
    added = ", and its autoscaler is asked for more nodes" if grows else ""
    return f"{subject} {needed}, and {free} of the cluster are free{added}"


def _listed(amounts: Sequence[tuple[float, float, str]]) -> str:
    return " and ".join(f"{free:g} of {total:g} {name}" for free, total, name in amounts)
