"""Every file is valid by the schema of the program that reads it."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from exported import BUCKET, ELASTIC, ONE_GPU, ROOT, documents, exported, validator

from scaler.export import KINDS

JOBS = ((), (ELASTIC,), (ONE_GPU, ELASTIC), (ONE_GPU,), ("resources.gpus_per_worker=0.5",))
"""Changes of the digits job, for every kind."""


@pytest.mark.parametrize("overrides", JOBS, ids=str)
@pytest.mark.parametrize("more", [(), (BUCKET,)], ids=["volume", "bucket"])
@pytest.mark.parametrize(("kind", "name"), [("kuberay", "RayJob"), ("raycluster", "RayCluster")])
@pytest.mark.parametrize("queue", [None, "team-a"])
def test_kuberay_accepts_its_files(
    kind: str, name: str, overrides: Sequence[str], more: Sequence[str], queue: str | None
) -> None:
    resource, *others = documents(kind, *overrides, *more, queue=queue)
    validator("kuberay", name).validate(resource)
    assert resource["kind"] == name
    assert [other["kind"] for other in others] == ([] if more else ["PersistentVolumeClaim"])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "backoffLimits"), 3),
        (("spec", "ttlSecondsAfterFinished"), "soon"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"), "four"),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "imag"), "digits"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "none"),
    ],
)
def test_kuberay_s_schema_refuses_what_kubernetes_refuses(path: Sequence[Any], value: object) -> None:
    resource = documents("kuberay")[0]
    place = resource
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        validator("kuberay", "RayJob").validate(resource)


@pytest.mark.parametrize("overrides", [*JOBS, (BUCKET,)], ids=str)
def test_compose_accepts_its_file(overrides: Sequence[str]) -> None:
    (spec,) = documents("compose", *overrides)
    assert spec.pop("x-node")
    validator("compose").validate(spec)


def test_compose_s_schema_refuses_an_unknown_key() -> None:
    (spec,) = documents("compose")
    spec["services"]["head"]["comand"] = []
    with pytest.raises(jsonschema.ValidationError):
        validator("compose").validate(spec)


@pytest.mark.parametrize("overrides", JOBS, ids=str)
@pytest.mark.parametrize("kind", ["aws", "gcp"])
def test_ray_s_launcher_accepts_its_file(kind: str, overrides: Sequence[str]) -> None:
    spec = find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    text = (Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_text()
    ray = jsonschema.Draft7Validator(json.loads(text))
    (cluster,) = documents(kind, *overrides, BUCKET)
    ray.validate(cluster)
    with pytest.raises(jsonschema.ValidationError):
        ray.validate({**cluster, "max_worker": 1})


@pytest.mark.parametrize("overrides", JOBS, ids=str)
def test_skypilot_accepts_its_file(overrides: Sequence[str]) -> None:
    (task,) = documents("skypilot", *overrides, BUCKET)
    validator("skypilot").validate(task)
    with pytest.raises(jsonschema.ValidationError):
        validator("skypilot").validate({**task, "nodes": 2})


def scripts() -> list[tuple[str, str]]:
    """The shell scripts of all kinds."""
    (task,) = documents("skypilot", ONE_GPU, BUCKET)
    found = [("setup", "#!/bin/bash\n" + task["setup"]), ("run", "#!/bin/bash\n" + task["run"])]
    for overrides in JOBS:
        found.append((f"slurm {overrides}", exported("slurm", *overrides, queue="gpu").files["slurm.sh"]))
    return found


@pytest.mark.parametrize(("name", "script"), scripts(), ids=lambda value: value[:40].partition("\n")[0])
def test_bash_can_read_a_script(name: str, script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


def tool(name: str) -> str:
    """The path of a program in this environment; without it the test is skipped."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        pytest.skip(f"{name} is not installed: pip install {name}-py or {name}-bin")
    return str(path)


@pytest.mark.parametrize(("name", "script"), scripts(), ids=lambda value: value[:40].partition("\n")[0])
def test_shellcheck_has_nothing_to_say(name: str, script: str) -> None:
    done = subprocess.run([tool("shellcheck"), "-"], input=script, text=True, capture_output=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run(
        [tool("hadolint"), "-"], input=exported("docker").files["Dockerfile"], text=True, capture_output=True
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_files_in_docker_are_fresh() -> None:
    spec = importlib.util.spec_from_file_location("make_docker_files", ROOT / "docs" / "make_docker_files.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    files = module.files()
    for name, text in files.items():
        assert (ROOT / "docker" / name).read_text() == text, f"docker/{name}: make docs writes it again"
    there = {str(path.relative_to(ROOT / "docker")) for path in (ROOT / "docker").rglob("*") if path.is_file()}
    assert {name for name in there if not name.endswith((".py", ".pyc"))} == set(files)
    assert {module_kind for _, module_kind, _ in module.FILES} == set(KINDS)


def test_the_checked_documents_are_yaml_1_1() -> None:
    """Ray, KubeRay and compose read YAML with anchors; a document has no key twice."""

    class Loader(yaml.SafeLoader):
        pass

    def unique(loader: Any, node: Any, deep: bool = False) -> Any:
        keys = [loader.construct_object(key, deep=True) for key, _ in node.value if key.value != "<<"]
        assert len(keys) == len(set(keys)), keys
        loader.flatten_mapping(node)
        return yaml.SafeLoader.construct_mapping(loader, node, deep)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, unique)
    for path in (ROOT / "docker").rglob("*.yaml"):
        assert list(yaml.load_all(path.read_text(), Loader))
