"""Write ``kuberay.json``: the schemas of KubeRay's RayJob and RayCluster, in a size that a repository can hold.

    python make_kuberay_schema.py FOLDER   # with ray.io_rayjobs.yaml and ray.io_rayclusters.yaml

The files are in ray-operator/config/crd/bases of https://github.com/ray-project/kuberay (Apache License 2.0). Kept is
version v1 without the status. Of a pod, only the fields are kept that are listed here. Unknown fields are errors, as
with ``kubectl apply`` (strict validation). Parts that occur more than once are written once.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

RELEASE = "v1.7.0"
POD = {"containers", "nodeSelector", "restartPolicy", "securityContext", "tolerations", "volumes"}
CONTAINER = {
    "command",
    "args",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "name",
    "ports",
    "resources",
    "securityContext",
}
CONTAINER |= {"volumeMounts", "workingDir"}
VOLUME = {"name", "emptyDir", "persistentVolumeClaim"}


def reduced(schema: Any) -> Any:
    """Return a schema without the fields of pods that are not listed."""
    if isinstance(schema, list):
        return [reduced(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    properties = schema.get("properties", {})
    for kind, kept in (("containers", POD), ("livenessProbe", CONTAINER), ("persistentVolumeClaim", VOLUME)):
        if kind in properties:
            properties = {name: value for name, value in properties.items() if name in kept}
    result = {key: reduced(value) for key, value in schema.items() if key != "properties"}
    if properties:
        result["properties"] = {name: reduced(value) for name, value in properties.items()}
        result.setdefault("additionalProperties", False)
    return {key: value for key, value in result.items() if not key.startswith("x-kubernetes-")}


def written_once(schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the schemas with every larger part that occurs more than once as a definition."""
    texts = Counter[str]()

    def count(part: Any) -> None:
        if isinstance(part, dict):
            text = json.dumps(part, sort_keys=True)
            texts[text] += 1
            if texts[text] == 1:
                for inner in part.values():
                    count(inner)

    count(schemas)
    names = {text: f"part{n}" for n, (text, times) in enumerate(texts.items()) if times > 1 and len(text) > 80}

    def refer(part: Any, top: bool = False) -> Any:
        if not isinstance(part, dict):
            return part
        text = json.dumps(part, sort_keys=True)
        if text in names and not top and ("type" in part or "anyOf" in part):
            return {"$ref": f"#/$defs/{names[text]}"}
        return {key: refer(value) for key, value in part.items()}

    definitions = {name: refer(json.loads(text), top=True) for text, name in names.items()}
    return {**{name: refer(schema, top=True) for name, schema in schemas.items()}, "$defs": definitions}


def main(folder: Path) -> None:
    schemas = {}
    for kind, name in (("RayJob", "rayjobs"), ("RayCluster", "rayclusters")):
        crd = yaml.load((folder / f"ray.io_{name}.yaml").read_text(), yaml.CSafeLoader)
        (version,) = (one for one in crd["spec"]["versions"] if one["name"] == "v1")
        whole = version["schema"]["openAPIV3Schema"]
        whole["properties"].pop("status")
        schema = reduced(whole)
        schema["properties"]["metadata"] = {"type": "object"}
        schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
        schemas[kind] = schema
    result = {"source": f"https://github.com/ray-project/kuberay/tree/{RELEASE}/ray-operator/config/crd/bases"}
    result |= {"license": "Apache-2.0", **written_once(schemas)}
    (Path(__file__).parent / "kuberay.json").write_text(json.dumps(result, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
