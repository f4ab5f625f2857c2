"""Render what a machine and a cluster offer: for a terminal, and as Markdown for a bug report."""

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from scaler.cluster.cluster_view import ClusterView, NodeView
from scaler.cluster.findings import Finding
from scaler.cluster.machine import Machine
from scaler.cluster.versions import Versions
from scaler.report.text.format import plural, printable
from scaler.report.text.markdown import as_table, as_text

MOST_NODES = 32  # that are shown one by one; --json has all of them
NOTHING_WRONG = "Nothing is wrong that scaler can see."
NOT_REACHED = "The cluster was not reached. With this machine, nothing is wrong that scaler can see."

Rows = Sequence[tuple[str, str]]


def env_text(
    machine: Machine, cluster: ClusterView | None, findings: Sequence[Finding], *, is_reached: bool = True
) -> RenderableType:
    """Return the text for a terminal, the findings first.

    Args:
        machine: this one.
        cluster: the cluster that was asked for; None: no cluster was asked for, or it was not reached.
        findings: what is wrong with them.
        is_reached: whether the cluster was reached, if one was asked for.
    """
    parts: list[RenderableType] = [_findings(findings, nothing_wrong(is_reached=is_reached))]
    for title, rows in _sections(machine, cluster):
        parts.append(Group(Text(title, style="bold"), Padding(_grid(rows), (0, 0, 0, 2))))
    return Group(*(Padding(part, (0, 0, 1, 0)) for part in parts))


def env_markdown(
    machine: Machine, cluster: ClusterView | None, findings: Sequence[Finding], *, is_reached: bool = True
) -> str:
    """Return a block of Markdown to paste into a bug report; the arguments are those of ``env_text``."""
    parts = []
    for title, rows in _sections(machine, cluster):
        parts.append(as_table([as_text(title), ""], [[as_text(name), as_text(value)] for name, value in rows]))
    found = [f"- {as_text(each.problem)} {as_text(each.consequence)}" for each in findings]
    return "\n\n".join([*parts, "\n".join(found) or nothing_wrong(is_reached=is_reached)])


def nothing_wrong(*, is_reached: bool) -> str:
    """Return the sentence in place of findings; of a cluster that was not reached, nothing is known."""
    return NOTHING_WRONG if is_reached else NOT_REACHED


def _findings(findings: Sequence[Finding], nothing: str) -> RenderableType:
    if not findings:
        return Text(nothing, style="green" if nothing == NOTHING_WRONG else "bold yellow")
    blocks: list[RenderableType] = []
    for each in findings:
        blocks.append(Text(printable(each.problem), style="bold yellow"))
        more = Text.assemble(f"{printable(each.consequence)}\n", (printable(each.remedy), "dim"))
        blocks.append(Padding(more, (0, 0, 0, 2)))
    return Group(*blocks)


def _grid(rows: Rows) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", max_width=24, overflow="fold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(printable(name)), Text(printable(value)))
    return table


def _sections(machine: Machine, cluster: ClusterView | None) -> Sequence[tuple[str, Rows]]:
    found: list[tuple[str, Rows]] = [(f"This machine: {machine.host}", _of_machine(machine))]
    if machine.variables:
        found.append(("Its variables", list(machine.variables.items())))
    if cluster is not None:
        found.append((f"The cluster at {cluster.address}", _of_cluster(cluster)))
        found.append(("Its nodes", _of_nodes(cluster.nodes)))
    return found


def _of_machine(machine: Machine) -> Rows:
    versions = machine.versions
    gpus = ", ".join(f"{machine.gpus.count(name)} {name}" for name in dict.fromkeys(machine.gpus))
    rows = [
        ("system", machine.system),
        *_version_rows(versions, machine.torch_cuda),
        ("GPUs", f"{gpus}, driver {machine.gpu_driver}" if gpus else "none"),
        ("CPUs", f"{machine.cpus} of {machine.cpus_of_machine}{_quota(machine.cpu_quota)}"),
        ("memory", _gib(machine.memory_gib)),
        ("/dev/shm", _gib(machine.shared_memory_gib)),
        ("open files", f"{machine.open_files:,} (hard limit {machine.most_open_files:,})"),
        ("current folder", f"{machine.folder}, {_gib(machine.folder_free_gib)} free"),
        ("Ray's folder", f"{machine.ray_folder}, {_gib(machine.ray_folder_free_gib)} free"),
    ]
    packages = ", ".join(f"{name} {version}" for name, version in machine.storage_packages.items())
    return [*rows, ("storage", f"folders{', ' if packages else ''}{packages}")]


def _of_cluster(cluster: ClusterView) -> Rows:
    total = {name: sum(node.resources.get(name, 0.0) for node in cluster.nodes) for name in ("CPU", "GPU")}
    free = {name: sum(node.free.get(name, 0.0) for node in cluster.nodes) for name in ("CPU", "GPU")}
    return [
        ("Ray", cluster.ray),
        ("nodes", f"{len(cluster.nodes)}"),
        *((f"{name}s", f"{total[name]:g}, {free[name]:g} free") for name in total if total[name]),
        ("autoscaler", "yes" if cluster.has_autoscaler else "no"),
        ("token", "asked for" if cluster.asks_for_token else "not asked for"),
    ]


def _of_nodes(nodes: Sequence[NodeView]) -> Rows:
    rows = []
    for node in nodes[:MOST_NODES]:
        kinds = f" ({', '.join(node.accelerators)})" if node.accelerators else ""
        offers = f"{_amounts(node.resources) or 'no CPU'}{kinds}, {_gib(node.memory_gib)}"
        versions = "did not answer"
        if node.versions is not None:
            versions = ", ".join(f"{name} {version}" for name, version in _version_rows(node.versions, node.torch_cuda))
        rows.append((f"{node.host}{' (head)' if node.is_head else ''}", f"{node.address}: {offers}; {versions}"))
    if len(nodes) > MOST_NODES:
        rows.append(("", f"and {plural(len(nodes) - MOST_NODES, 'more node')}: --json"))
    return rows


def _version_rows(versions: Versions, torch_cuda: str | None) -> Rows:
    built = f" (CUDA {torch_cuda})" if torch_cuda else " (CPU only)"
    return [
        ("Python", versions.python),
        ("scaler", versions.scaler or "not installed"),
        ("torch", f"{versions.torch}{built}" if versions.torch else "not installed"),
        ("Ray", versions.ray or "not installed"),
    ]


def _quota(quota: float | None) -> str:
    return "" if quota is None else f", limited to {quota:g} by the container"


def _amounts(amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in amounts.items() if amount)


def _gib(value: float | None) -> str:
    """Return an amount of memory, in MiB below one GiB."""
    if value is None:
        return "–"
    return f"{value:,.1f} GiB" if value >= 1 else f"{value * 1024:,.0f} MiB"
