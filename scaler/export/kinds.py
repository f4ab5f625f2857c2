"""The kinds of files that scaler writes, and what each needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Storage = Literal["volume", "shared", "uri"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One kind of cluster.

    Args:
        files: name of a file -> its template; the first is the one that is used.
        storage: where a job can keep its runs if its storage is a folder. ``volume``: the files have a volume that all
            containers mount; ``shared``: the machines share file systems; ``uri``: only in a storage with a URI.
        installs: whether the files install scaler, from its wheel.
        next: the commands to type, from nothing to the report, with values in ``{}``. Empty ones are left out.
        end: the command that ends the job and removes what it uses, to be typed when nothing is needed any more.
    """

    files: Mapping[str, str]
    storage: Storage
    installs: bool = False
    next: tuple[str, ...]
    end: str = ""


BUILD = ("{prepare}", "docker build --file {dockerfile} --tag {image} {context}")
PUSH = (*BUILD, "docker push {image}")
LAUNCH = ("ray up --yes {file}", "ray exec {file} {command_quoted}", "{report}")

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "docker": Kind(
            files={"Dockerfile": "Dockerfile.j2", "Dockerfile.dockerignore": "dockerignore.j2"},
            storage="volume",
            installs=True,
            next=(
                BUILD[1],
                "docker run --rm --shm-size 1g --volume {name}-runs:{runs} {image}",
            ),
        ),
        "compose": Kind(
            files={"compose.yaml": "compose.yaml.j2"},
            storage="volume",
            next=(
                *BUILD,
                "docker compose --file {file} up --detach",
                "docker compose --file {file} run --rm submit",
                "{report}",
            ),
            end="docker compose --file {file} down",
        ),
        "kuberay": Kind(
            files={"rayjob.yaml": "rayjob.yaml.j2"},
            storage="volume",
            next=(
                *PUSH,
                "kubectl apply --filename {file}",
                "kubectl logs --follow job/{object}",
                "{report}",
            ),
            end="kubectl delete rayjob {object}",
        ),
        "raycluster": Kind(
            files={"raycluster.yaml": "raycluster.yaml.j2"},
            storage="volume",
            next=(
                *PUSH,
                "kubectl apply --filename {file}",
                "kubectl exec --stdin --tty service/{object}-head-svc -- {command_line}",
                "{report}",
            ),
            end="kubectl delete raycluster {object}",
        ),
        "aws": Kind(
            files={"aws.yaml": "aws.yaml.j2"},
            storage="uri",
            installs=True,
            next=LAUNCH,
            end="ray down --yes {file}",
        ),
        "gcp": Kind(
            files={"gcp.yaml": "gcp.yaml.j2"},
            storage="uri",
            installs=True,
            next=LAUNCH,
            end="ray down --yes {file}",
        ),
        "slurm": Kind(
            files={"slurm.sh": "slurm.sh.j2"},
            storage="shared",
            next=("sbatch {file}", "squeue --me", "{report}"),
            end="scancel --name {name}",
        ),
        "skypilot": Kind(
            files={"skypilot.yaml": "skypilot.yaml.j2"},
            storage="uri",
            installs=True,
            next=("sky jobs launch --yes {file}", "sky jobs queue", "{report}"),
            end="sky jobs cancel --yes --name {name}",
        ),
    }
)
