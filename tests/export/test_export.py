"""What the files contain: the job's workers, resources, storage and command; and what is refused."""

import os
import shlex
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from exported import BUCKET, ELASTIC, ONE_GPU, ROOT, documents, exported, job

from scaler.cli.export_command import KIND_NAMES
from scaler.errors import JobFileError
from scaler.export import KINDS
from scaler.export.deployment import STORAGE_EXTRAS, extras_of
from scaler.export.machines import CLOUDS

DIGITS = ROOT / "jobs" / "digits"
SUBMIT = "python -m scaler submit"


def group_of(resource: Any) -> tuple[int, int, int]:
    """Replicas of a RayJob's or RayCluster's workers: at the start, fewest, most."""
    spec = resource["spec"].get("rayClusterSpec", resource["spec"])
    (group,) = spec["workerGroupSpecs"]
    return group["replicas"], group["minReplicas"], group["maxReplicas"]


def test_the_command_line_knows_every_kind() -> None:
    assert tuple(KINDS) == KIND_NAMES


def test_an_elastic_job_is_a_worker_group_with_its_limits() -> None:
    fixed, elastic = documents("kuberay")[0], documents("kuberay", ELASTIC)[0]
    assert group_of(fixed) == (2, 2, 2)
    assert "enableInTreeAutoscaling" not in fixed["spec"]["rayClusterSpec"]
    assert group_of(elastic) == (2, 2, 5)
    assert elastic["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is True
    worker = documents("aws", ELASTIC, BUCKET)[0]["available_node_types"]["worker"]
    assert (worker["min_workers"], worker["max_workers"]) == (2, 5)
    assert "#SBATCH --nodes=2-5\n" in exported("slurm", ELASTIC).files["slurm.sh"]


def test_kueue_gets_its_label_and_all_nodes_at_once() -> None:
    export = exported("kuberay", ELASTIC, queue="team-a")
    resource = next(yaml.safe_load_all(export.files["rayjob.yaml"]))
    assert resource["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "team-a"}
    assert group_of(resource) == (5, 5, 5)
    assert "enableInTreeAutoscaling" not in resource["spec"]["rayClusterSpec"]
    assert "With Kueue the cluster has 5 nodes from the start: Kueue reserves them." in export.notices


def test_workers_are_packed_on_nodes() -> None:
    changes = ("scale.num_workers=5", "resources.cpus_per_worker=3", ONE_GPU)
    resource = documents("kuberay", *changes, workers_per_node=2, memory_gib=16)[0]
    limits = resource["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"]
    assert limits["limits"] == {"cpu": "6", "memory": "32Gi", "nvidia.com/gpu": "2"}
    assert limits["requests"] == limits["limits"]
    assert group_of(resource) == (3, 3, 3)


def test_workers_that_share_a_gpu_share_a_node() -> None:
    resource = documents("kuberay", "scale.num_workers=5", "resources.gpus_per_worker=0.5")[0]
    limits = resource["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"]
    assert (limits["limits"]["nvidia.com/gpu"], limits["limits"]["cpu"]) == ("1", "2")
    assert group_of(resource) == (3, 3, 3)


def test_containers_of_one_machine_do_not_ask_for_the_same_gpu() -> None:
    (spec,) = documents("compose", "scale.num_workers=4", ONE_GPU)
    deploy = spec["services"]["worker"]["deploy"]
    assert deploy["replicas"] == 1
    assert deploy["resources"]["reservations"]["devices"] == [{"driver": "nvidia", "count": 4, "capabilities": ["gpu"]}]


@pytest.mark.parametrize(
    ("kind", "storage", "command_has"),
    [
        ("compose", "storage=runs", "storage=/home/scaler/runs"),
        ("compose", "storage=/data/runs", "storage=/home/scaler/runs"),
        ("compose", "storage=file:///data/runs", "storage=/home/scaler/runs"),
        ("kuberay", BUCKET, BUCKET),
        ("aws", BUCKET, BUCKET),
        ("slurm", "storage=/shared/runs", "storage=/shared/runs"),
    ],
)
def test_the_runs_are_kept_where_every_node_reaches_them(kind: str, storage: str, command_has: str) -> None:
    export = exported(kind, storage)
    text = next(iter(export.files.values()))
    assert f"--set {command_has}" in text or f'"--set", "{command_has}"' in text
    has_volume = command_has == "storage=/home/scaler/runs"
    assert ("runs:/home/scaler/runs" in text) == (kind == "compose" and has_volume)


@pytest.mark.parametrize("storage", ["runs", "/data/runs", "file:///data/runs"])
@pytest.mark.parametrize("kind", ["aws", "gcp", "skypilot"])
def test_a_folder_is_refused_where_machines_share_none(kind: str, storage: str) -> None:
    with pytest.raises(JobFileError) as error:
        exported(kind, f"storage={storage}")
    scheme = "gs" if kind == "gcp" else "s3"
    assert str(error.value) == (
        f"storage = {storage} is a folder, and the machines of {kind} share none.\n"
        f"  Give a URI: --set storage={scheme}://BUCKET/PREFIX."
    )


def test_a_bucket_s_credentials_come_from_the_shell_or_from_a_secret_and_are_in_no_file() -> None:
    os.environ["AWS_SECRET_ACCESS_KEY"] = "a-secret"
    try:
        texts = {kind: "".join(exported(kind, BUCKET).files.values()) for kind in KINDS}
    finally:
        del os.environ["AWS_SECRET_ACCESS_KEY"]
    assert "AWS_SECRET_ACCESS_KEY" in texts["compose"]
    assert 'secretRef: {name: "digits-storage", optional: true}' in texts["kuberay"]
    assert not any("a-secret" in text for text in texts.values())
    assert "PersistentVolumeClaim" not in texts["kuberay"]


@pytest.mark.parametrize("secret", ["recipe_args.api_key=abc123", "recipe_args={api_key: abc123}"])
def test_a_secret_is_refused(secret: str) -> None:
    with pytest.raises(JobFileError) as error:
        exported("kuberay", secret)
    assert str(error.value) == (
        f"--set {secret.partition('=')[0]}=... is a secret, which would be in the files.\n"
        "  Give it to the recipe in an environment variable."
    )


def test_the_image_has_the_packages_that_the_job_needs() -> None:
    dockerfile = exported("docker", BUCKET, "tracking={wandb: {project: p}}", "reference.optimizer={name: lion}").files
    assert "scaler-0.1.0-py3-none-any.whl[optimizers,s3,wandb]" in dockerfile["Dockerfile"]
    assert "ARG TORCH=cpu\n" in dockerfile["Dockerfile"]
    assert "ARG TORCH=cu130\n" in exported("docker", ONE_GPU).files["Dockerfile"]
    assert "\nruns\n" in exported("docker").files["Dockerfile.dockerignore"]


def test_every_extra_that_a_job_may_need_is_in_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {*STORAGE_EXTRAS.values(), "mlflow", "wandb", "optimizers"} <= set(project["optional-dependencies"])
    assert [extras_of(job(f"storage={scheme}://b/c")) for scheme in STORAGE_EXTRAS] == [
        [extra] for extra in STORAGE_EXTRAS.values()
    ]


def test_gpus_that_depend_on_the_cluster_are_none_or_asked_for() -> None:
    export = exported("kuberay", "resources.gpus_per_worker=auto")
    assert "nvidia.com/gpu: " not in export.files["rayjob.yaml"]
    assert "The file asks for no GPU; --set resources.gpus_per_worker=1 gives one GPU to each worker." in export.notices
    typed = exported("kuberay", "resources.gpus_per_worker=auto", "resources.accelerator_type=A100")
    assert 'nvidia.com/gpu: "1"' in typed.files["rayjob.yaml"]
    assert "To fill in before use: FILL-IN-PRODUCT-OF-A100." in typed.notices


def test_every_command_starts_or_resumes_the_same_run_with_the_same_changes() -> None:
    for kind in KINDS:
        export = exported(kind, BUCKET, "train.epochs=3", workers=3)
        text = "\n".join([*export.files.values(), *export.next, export.end]).replace('", "', " ")
        assert "scaler submit" in text, kind
        assert "--run-id digits-1 --workers 3 --set storage=s3://bucket/runs --set train.epochs=3" in text, kind


def test_the_report_is_among_the_commands_where_it_can_be_read() -> None:
    of_bucket = "scaler report digits-1 --storage s3://bucket/runs"
    shown = {kind: [line for line in exported(kind, BUCKET).next if line == of_bucket] for kind in KINDS}
    assert {kind for kind, lines in shown.items() if not lines} == {"docker"}, "its container prints the report"
    assert "scaler report digits-1 --storage jobs/digits/runs" in exported("slurm").next
    assert "scaler report digits-1 --storage /mnt/runs" in exported("slurm", "storage=/mnt/runs").next
    assert (
        "docker compose --file jobs/digits/deploy/compose.yaml cp head:/home/scaler/runs ." in exported("compose").next
    )
    assert not [line for line in exported("kuberay").next if "report" in line or not line]


def test_the_image_is_made_for_the_job_with_its_changes() -> None:
    """Without them it would lack the package of the bucket, and a torch for GPUs."""
    for kind in ("compose", "kuberay", "raycluster"):
        command = exported(kind, BUCKET, ONE_GPU).next[0]
        assert command == f"scaler export docker jobs/digits --set {BUCKET} --set {ONE_GPU}"


def test_an_image_that_no_registry_has_is_noticed() -> None:
    notice = "The cluster pulls the image digits. Name it in a registry: --image REGISTRY/NAME."
    assert notice in exported("raycluster").notices
    assert notice not in exported("raycluster", image="ghcr.io/me/digits").notices


def test_a_name_that_kubernetes_does_not_take_is_changed() -> None:
    resource = documents("kuberay", "name=My_Job.v2", run_id="My_Job.v2-20261129-080000-ab12")[0]
    assert resource["metadata"]["name"] == "my-job-v2-20261129-080000-ab12"
    long = documents("kuberay", f"name={'a' * 90}", run_id=f"{'a' * 90}-20261129-080000-ab12")[0]
    assert len(long["metadata"]["name"]) == 47
    assert long["metadata"]["name"].endswith("-20261129-080000-ab12")
    assert long["spec"]["jobId"].startswith("a" * 90)


def test_texts_with_signs_of_yaml_and_of_shells_stay_texts() -> None:
    odd = 'recipe_args={hidden: "a\'b: #{}"}'
    entrypoint = documents("kuberay", odd)[0]["spec"]["entrypoint"]
    assert odd in shlex.split(entrypoint)
    (spec,) = documents("compose", odd)
    assert odd in spec["services"]["submit"]["command"]


def test_a_machine_is_the_smallest_that_fits() -> None:
    for cloud, name in (("aws", "g5.12xlarge"), ("gcp", "g2-standard-48")):
        worker = documents(cloud, ONE_GPU, BUCKET, "scale.num_workers=4", workers_per_node=4)[0]
        config = worker["available_node_types"]["worker"]["node_config"]
        assert config.get("InstanceType", config.get("machineType")) == name
    with pytest.raises(JobFileError) as error:
        exported("aws", BUCKET, "scale.num_workers=64", "resources.cpus_per_worker=8", workers_per_node=64)
    assert str(error.value) == (
        "no machine of aws that scaler knows has 512 CPUs, 256 GiB.\n"
        "  Lower --workers-per-node, or give the machine: --instance-type TYPE."
    )
    chosen = documents("aws", BUCKET, instance_type="c7i.large")[0]["available_node_types"]["worker"]["node_config"]
    assert chosen["InstanceType"] == "c7i.large"


def test_machines_are_listed_from_small_to_large() -> None:
    for machines in CLOUDS.values():
        for kind in machines.values():
            sizes = [(machine.gpus, machine.cpus) for machine in kind]
            assert sizes == sorted(sizes)


def test_what_has_to_be_filled_in_is_named() -> None:
    export = exported("aws", ONE_GPU, BUCKET)
    assert export.notices == ["To fill in before use: FILL-IN-ACCOUNT, FILL-IN-AMI, FILL-IN-GPU-AMI, FILL-IN-PROFILE."]
    assert exported("compose").notices == []


def test_the_wheel_of_an_export_is_the_wheel_that_pip_builds(tmp_path: Path) -> None:
    import subprocess
    import sys

    from scaler.export.wheel import write_wheel

    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", str(tmp_path / "pip"), str(ROOT)], check=True)
    contents = []
    for path in (next((tmp_path / "pip").glob("*.whl")), write_wheel(tmp_path)):
        with zipfile.ZipFile(path) as archive:
            contents.append({name: archive.read(name) for name in archive.namelist() if name.startswith("scaler/")})
    assert contents[0] == contents[1]
    assert "scaler/export/templates/Dockerfile.j2" in contents[0]
