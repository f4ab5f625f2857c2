"""Types of cloud machines, and the smallest one that fits a node.

Names, sizes and GPUs do not change once a cloud has published them; which types a region has, and their prices, do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from scaler.errors import JobFileError


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """A type of machine.

    Args:
        name: as the cloud names it.
        cpus: virtual CPUs.
        memory_gib: memory in GiB.
        gpus: number of GPUs that it comes with.
        attach: the name of a GPU that has to be attached to it (Google's N1 machines); None: none.
    """

    name: str
    cpus: int
    memory_gib: int
    gpus: int = 0
    attach: str | None = None


def _machines(*rows: tuple[str, int, int, int], attach: str | None = None) -> tuple[Machine, ...]:
    return tuple(
        Machine(name=name, cpus=cpus, memory_gib=memory_gib, gpus=gpus, attach=attach)
        for name, cpus, memory_gib, gpus in rows
    )


_AWS = {
    None: _machines(*((f"m6i.{size}large", cpus, 4 * cpus, 0) for size, cpus in
                      (("", 2), ("x", 4), ("2x", 8), ("4x", 16), ("8x", 32), ("16x", 64), ("32x", 128)))),
    "T4": _machines(("g4dn.xlarge", 4, 16, 1), ("g4dn.12xlarge", 48, 192, 4), ("g4dn.metal", 96, 384, 8)),
    "A10G": _machines(("g5.xlarge", 4, 16, 1), ("g5.4xlarge", 16, 64, 1), ("g5.12xlarge", 48, 192, 4),
                      ("g5.48xlarge", 192, 768, 8)),
    "L4": _machines(("g6.xlarge", 4, 16, 1), ("g6.4xlarge", 16, 64, 1), ("g6.12xlarge", 48, 192, 4),
                    ("g6.48xlarge", 192, 768, 8)),
    "L40S": _machines(("g6e.xlarge", 4, 32, 1), ("g6e.4xlarge", 16, 128, 1), ("g6e.12xlarge", 48, 384, 4),
                      ("g6e.48xlarge", 192, 1536, 8)),
    "V100": _machines(("p3.2xlarge", 8, 61, 1), ("p3.8xlarge", 32, 244, 4), ("p3.16xlarge", 64, 488, 8)),
    "A100": _machines(("p4d.24xlarge", 96, 1152, 8)),
    "A100-40G": _machines(("p4d.24xlarge", 96, 1152, 8)),
    "A100-80G": _machines(("p4de.24xlarge", 96, 1152, 8)),
    "H100": _machines(("p5.48xlarge", 192, 2048, 8)),
    "H200": _machines(("p5en.48xlarge", 192, 2048, 8)),
}  # fmt: skip

_GCP = {
    None: _machines(*((f"n2-standard-{cpus}", cpus, 4 * cpus, 0) for cpus in (2, 4, 8, 16, 32, 64, 128))),
    "T4": _machines(("n1-standard-4", 4, 15, 1), ("n1-standard-8", 8, 30, 2), ("n1-standard-16", 16, 60, 4),
                    attach="nvidia-tesla-t4"),
    "V100": _machines(("n1-standard-8", 8, 30, 1), ("n1-standard-16", 16, 60, 2), ("n1-standard-32", 32, 120, 4),
                      ("n1-standard-96", 96, 360, 8), attach="nvidia-tesla-v100"),
    "L4": _machines(("g2-standard-4", 4, 16, 1), ("g2-standard-16", 16, 64, 1), ("g2-standard-24", 24, 96, 2),
                    ("g2-standard-48", 48, 192, 4), ("g2-standard-96", 96, 384, 8)),
    "A100": _machines(*((f"a2-highgpu-{gpus}g", 12 * gpus, 85 * gpus, gpus) for gpus in (1, 2, 4, 8))),
    "A100-40G": _machines(*((f"a2-highgpu-{gpus}g", 12 * gpus, 85 * gpus, gpus) for gpus in (1, 2, 4, 8))),
    "A100-80G": _machines(*((f"a2-ultragpu-{gpus}g", 12 * gpus, 170 * gpus, gpus) for gpus in (1, 2, 4, 8))),
    "H100": _machines(*((f"a3-highgpu-{gpus}g", 26 * gpus, 234 * gpus, gpus) for gpus in (1, 2, 4, 8))),
    "H200": _machines(("a3-ultragpu-8g", 224, 2952, 8)),
}  # fmt: skip

CLOUDS: Mapping[str, Mapping[str | None, Sequence[Machine]]] = MappingProxyType({"aws": _AWS, "gcp": _GCP})
DEFAULT_GPU = MappingProxyType({"aws": "A10G", "gcp": "L4"})
"""The GPU of a job that needs one and names no type: the smallest current one that is sold singly."""


def choose_machine(cloud: str, *, cpus: int, memory_gib: int, gpus: int, accelerator: str | None) -> Machine:
    """Return the smallest machine of a cloud that holds a node.

    Args:
        cloud: ``aws`` or ``gcp``.
        cpus: CPUs of the node.
        memory_gib: memory of the node, in GiB.
        gpus: GPUs of the node.
        accelerator: type of the GPUs, as Ray names it, such as ``A10G``; None: ``DEFAULT_GPU`` if there are GPUs.

    Raises:
        JobFileError: no machine is that large or has these GPUs.

    Example:
        >>> choose_machine("aws", cpus=4, memory_gib=16, gpus=1, accelerator=None).name
        'g5.xlarge'
        >>> choose_machine("gcp", cpus=4, memory_gib=8, gpus=2, accelerator="T4").name
        'n1-standard-8'
    """
    kinds = CLOUDS[cloud]
    kind = (accelerator or DEFAULT_GPU[cloud]) if gpus else None
    if kind not in kinds:
        raise JobFileError(
            f"resources.accelerator_type = {kind}: scaler knows no machine of {cloud} with it.",
            f"Known: {', '.join(name for name in kinds if name)}. Or give the machine: --instance-type TYPE.",
        )
    for machine in kinds[kind]:
        if machine.gpus >= gpus and machine.cpus >= cpus and machine.memory_gib >= memory_gib:
            return machine
    need = ", ".join([f"{cpus} CPUs", f"{memory_gib} GiB", *([f"{gpus} GPUs {kind}"] if gpus else [])])
    raise JobFileError(
        f"no machine of {cloud} that scaler knows has {need}.",
        "Lower --workers-per-node, or give the machine: --instance-type TYPE.",
    )
