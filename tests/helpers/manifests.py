"""The objects of cluster/kuberay as kubectl would send them to Kubernetes."""

import copy
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.common import ROOT

KUBERAY = ROOT / "cluster" / "kuberay"

GPU = {"gpu": True, "gpu, fault-tolerant": True, "cpu": False}
each_overlay = pytest.mark.parametrize("overlay", GPU)


@cache
def rendered(overlay: str) -> list[dict[str, Any]]:
    """The objects that `kubectl apply -k` would send for an overlay of `GPU`."""
    kubectl = Path(sys.executable).with_name("kubectl")
    folder, _, fault_tolerant = overlay.partition(", ")
    with tempfile.TemporaryDirectory() as mine:
        to_kuberay = os.path.relpath(KUBERAY, Path(mine).resolve())
        kustomization: dict[str, Any] = {"resources": [f"{to_kuberay}/{folder}"]}
        if fault_tolerant:
            kustomization["components"] = [f"{to_kuberay}/components/gcs-fault-tolerance"]
        Path(mine, "kustomization.yaml").write_text(json.dumps(kustomization))
        done = subprocess.run(
            [str(kubectl), "kustomize", mine], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    return list(yaml.load_all(done.stdout, yaml.CSafeLoader))


def of_kind(overlay: str, kind: str) -> dict[str, dict[str, Any]]:
    return {o["metadata"]["name"]: o for o in rendered(overlay) if o["kind"] == kind}


def clusters(overlay: str) -> dict[str, dict[str, Any]]:
    """The specs of all Ray clusters by 'KIND NAME', also of those in a RayJob or RayService."""
    where = {"RayCluster": (), "RayJob": ("rayClusterSpec",), "RayService": ("rayClusterConfig",)}
    found = {}
    for kind, path in where.items():
        for name, thing in of_kind(overlay, kind).items():
            spec = thing["spec"]
            for key in path:
                spec = spec[key]
            found[f"{kind} {name}"] = spec
    return found


def templates(overlay: str) -> dict[str, dict[str, Any]]:
    """The templates of all pods. Those of heads have the autoscaler that KubeRay adds."""
    found = {}
    for name, cluster in clusters(overlay).items():
        found[f"{name}: head"] = head = copy.deepcopy(cluster["headGroupSpec"]["template"])
        image = head["spec"]["containers"][0]["image"]
        autoscaler = {k: v for k, v in cluster["autoscalerOptions"].items() if k != "version"}
        head["spec"]["containers"].append({"name": "autoscaler", "image": image, **autoscaler})
        for group in cluster["workerGroupSpecs"]:
            found[f"{name}: {group['groupName']}"] = group["template"]
    for name, job in of_kind(overlay, "RayJob").items():
        found[f"RayJob {name}: submitter"] = job["spec"]["submitterPodTemplate"]
    for name, one in of_kind(overlay, "StatefulSet").items():
        found[f"StatefulSet {name}"] = one["spec"]["template"]
    return found


def containers(overlay: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, template in templates(overlay).items():
        for container in template["spec"]["containers"]:
            yield f"{where}: {container['name']}", container


def mappings(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node:
        if isinstance(child, dict | list):
            yield from mappings(child)


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {e["name"]: e.get("value", "") for e in container.get("env", [])}
