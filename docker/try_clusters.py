"""Run the commands of ``compose.yaml`` and of KubeRay's files as processes in containers of their own.

    sudo python docker/try_clusters.py [IMAGE]    # IMAGE: a folder made by try_image.py; otherwise this machine's root

Head, workers and submitter have networks, process ids and files of their own, and share only the folder of the runs,
as with compose's volume and with the volume claim. Commands, environment and health checks are taken from the files.
What KubeRay's operator adds to them is in ``kuberay`` below, after its source (release 1.7).
"""

import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from containers import Container, Image, Network, network, wait_for

ROOT = Path(__file__).parents[1]
RUNS = "/home/scaler/runs"
PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
START_S, RUN_S = 90, 300


def image_of(root: Path | None) -> Image:
    """Return the image of a folder, or this machine's root with the Python that runs this script."""
    if root is not None:
        about = json.loads(root.with_suffix(".json").read_text())
        values = {"PATH": PATH, "HOME": "/home/scaler", **about["environment"]}
        return Image(root, values, folder=about["folder"], user=about["user"])
    # Not resolved: the interpreter of a virtual environment is a link.
    values = {"PATH": f"{Path(sys.executable).parent}:{PATH}", "HOME": "/home/scaler", "RAY_USAGE_STATS_ENABLED": "0"}
    return Image(Path("/"), values, folder="/home/scaler/job")


def binds(image: Image, runs: Path) -> dict[Path, str]:
    """Return what containers share: the runs, and the job's folder if the image does not have it."""
    job = {ROOT / "jobs" / "digits": "/home/scaler/job"} if image.root == Path("/") else {}
    return {runs: RUNS, **job}


def compose(net: Network, image: Image, runs: Path, spec: Mapping[str, Any]) -> Container:
    """Start the services of ``compose.yaml`` as compose does, and return the container of ``submit``."""
    services, shared = spec["services"], binds(image, runs)
    head = net.start("head", services["head"]["command"], image, binds=shared)
    wait_for(head, health_check(services["head"]), image, seconds=START_S)
    worker = services["worker"]
    for number in range(worker["deploy"]["replicas"]):
        container = net.start(f"worker-{number + 1}", worker["command"], image, binds=shared)
        wait_for(container, health_check(worker), image, seconds=START_S)
    return net.start("submit", services["submit"]["command"], image, binds=shared)


def health_check(service: Mapping[str, Any]) -> list[str]:
    """Return the command of a service's health check."""
    form, *command = service["healthcheck"]["test"]
    return command if form == "CMD" else ["/bin/sh", "-c", *command]


def ray_start(parameters: Mapping[str, str], resources: Mapping[str, str], *options: str) -> list[str]:
    """Return the command that KubeRay makes of ``rayStartParams`` and of a container's limits."""
    values = {"block": "true", "metrics-export-port": "8080", "dashboard-agent-listen-port": "52365"}
    values |= {"num-cpus": resources["cpu"], "num-gpus": resources.get("nvidia.com/gpu", "0")}
    values |= {"memory": str(int(resources["memory"].removesuffix("Gi")) << 30), **parameters}
    flags = [f"--{name}" if value == "true" else f"--{name}={value}" for name, value in values.items()]
    return ["/bin/bash", "-c", "ulimit -n 65536; " + shlex.join(["ray", "start", *options, *flags])]


def kuberay(net: Network, image: Image, runs: Path, spec: Mapping[str, Any]) -> Container:
    """Start the pods of a RayJob as KubeRay does, and return the one that submits the job."""
    cluster, shared, name = spec["spec"]["rayClusterSpec"], binds(image, runs), spec["metadata"]["name"]
    service = f"{name}-head-svc"
    token = {"RAY_AUTH_MODE": cluster["authOptions"]["mode"], "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
    of_head = {**token, "RAY_ADDRESS": "127.0.0.1:6379", "RAY_PORT": "6379"}
    of_others = {**token, "RAY_ADDRESS": f"{service}:6379", "FQ_RAY_IP": service, "RAY_IP": service}

    def limits(group: Mapping[str, Any]) -> Any:
        return group["template"]["spec"]["containers"][0]["resources"]["limits"]

    group = cluster["headGroupSpec"]
    command = ray_start(group["rayStartParams"], limits(group), "--head")
    head = net.start(service, command, image, binds=shared, environment=of_head)
    healthy = "wget --tries 1 -T 2 -q -O- http://localhost:{}/{} | grep success"
    for port, path in ((52365, "api/local_raylet_healthz"), (8265, "api/gcs_healthz")):
        wait_for(head, ["bash", "-c", healthy.format(port, path)], image, seconds=START_S)
    (group,) = cluster["workerGroupSpecs"]
    for number in range(group["replicas"]):
        command = ray_start(group["rayStartParams"], limits(group), f"--address={service}:6379")
        container = net.start(f"worker-{number + 1}", command, image, binds=shared, environment=of_others)
        wait_for(container, ["bash", "-c", healthy.format(52365, "api/local_raylet_healthz")], image, seconds=START_S)
    address = f"http://{service}:8265"
    submit = f"ray job submit --address {address} --no-wait --submission-id {spec['spec']['jobId']}"
    follow = f"ray job logs --address {address} --follow {spec['spec']['jobId']}"
    script = f"{submit} -- {spec['spec']['entrypoint']} ; {follow}"
    return net.start("submitter", ["/bin/bash", "-ce", "--", script], image, binds=shared, environment=of_others)


def state(runs: Path) -> dict[str, Any]:
    """Return the status of the one run in a folder; empty: there is none yet."""
    found = list(runs.glob("*/status.json"))
    return json.loads(found[0].read_text()) if found else {}


def wait_until(condition: Any, *, seconds: float) -> None:
    """Return when a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.5)


def tried(name: str, folder: Path, image: Image, arguments: Sequence[str]) -> None:
    """Export the files for a job, run them, kill the head in the middle of training, and run them again.

    The second cluster is what a restart by compose, or by KubeRay's ``backoffLimit``, starts.
    """
    kind, start, file = {
        "compose": ("compose", compose, "compose.yaml"),
        "kuberay": ("kuberay", kuberay, "rayjob.yaml"),
    }[name]
    from scaler.cli import run as scaler

    assert (
        scaler(["export", kind, str(ROOT / "jobs/digits"), "--output", str(folder), "--run-id", "digits-1", *arguments])
        == 0
    )
    spec = next(yaml.safe_load_all((folder / file).read_text()))
    runs = folder / "runs"
    runs.mkdir()
    os.chown(runs, image.user, image.user)
    began = time.monotonic()
    for attempt in (1, 2):
        (folder / f"cluster-{attempt}").mkdir()
        with network(f"try-{os.getpid()}", folder / f"cluster-{attempt}") as net:
            submitter = start(net, image, runs, spec)
            print(f"{name}: submitted after {time.monotonic() - began:.0f} s")
            if attempt == 1:
                wait_until(lambda: list(runs.glob("*/checkpoints/*.json")), seconds=RUN_S)
                net.containers[0].kill()
                print(f"{name}: the head was killed after {time.monotonic() - began:.0f} s, at a checkpoint")
            else:
                code = submitter.wait(seconds=RUN_S)
                assert (code, state(runs)["state"]) == (0, "succeeded"), submitter.log.read_text()
                print(submitter.log.read_text())
                print(f"{name}: exit {code} after {time.monotonic() - began:.0f} s; state {state(runs)['state']}")


def main() -> None:
    image = image_of(Path(sys.argv[1]).absolute() if sys.argv[1:] else None)
    longer = ["--set", "train.epochs=400", "--set", "checkpoint.every={epochs: 20}"]
    for name in ("compose", "kuberay"):
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            tried(name, Path(folder), image, longer)


if __name__ == "__main__":
    main()
