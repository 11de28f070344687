"""The manifests of cluster/kuberay: each field is valid, and they fit the code that they run."""

import copy
import gzip
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from audiocnn.config import Variable
from audiocnn.errors import ConfigError
from helpers.manifests import (
    GPU,
    KUBERAY,
    ROOT,
    clusters,
    containers,
    each_overlay,
    environment,
    mappings,
    of_kind,
    rendered,
    templates,
)
from pipelines.cli import parse
from serve.deploy.config_file import read_args, write_config
from serve.options import Serve

SCHEMAS = Path(__file__).with_name("data") / "kuberay-1.6.2.json.gz"
KUBERNETES = "1.37"

# --- Validity: by KubeRay's schemas for its own objects, by Kubernetes' for the others. ---


def closed(schema: Any) -> Any:
    """Make a schema refuse unknown fields, which the API server would drop, and return it."""
    for one in mappings(schema):
        if one.get("type") == "object":
            one.setdefault("additionalProperties", False)
    return schema


@cache
def validators() -> dict[str, jsonschema.Draft7Validator]:
    found = {}
    for kind, schema in json.loads(gzip.decompress(SCHEMAS.read_bytes())).items():
        spec = schema["properties"]["spec"]["properties"]
        cluster = spec.get("rayClusterSpec") or spec.get("rayClusterConfig")
        head = (cluster["properties"] if cluster else spec)["headGroupSpec"]["properties"]
        # A CRD does not describe the metadata of an object; use that of its pods.
        schema["properties"]["metadata"] = head["template"]["properties"]["metadata"]
        found[kind] = jsonschema.Draft7Validator(closed(schema))
    return found


def mistakes(thing: dict[str, Any]) -> list[str]:
    if thing["apiVersion"] == "ray.io/v1":
        return [
            f"{e.json_path}: {e.message}" for e in validators()[thing["kind"]].iter_errors(thing)
        ]
    try:
        kubernetes_validate.validate(thing, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [error.message]
    return []


@each_overlay
def test_every_object_is_valid(overlay: str) -> None:
    for thing in rendered(overlay):
        assert mistakes(thing) == [], (thing["kind"], thing["metadata"]["name"])
    kinds = {thing["kind"] for thing in rendered(overlay)}
    assert kinds >= {"Namespace", "NetworkPolicy", "RayCluster", "RayJob", "RayService"}


@each_overlay
def test_pods_are_valid_to_kubernetes_too(overlay: str) -> None:
    for where, template in templates(overlay).items():
        pod = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(template)}
        assert mistakes(pod) == [], where


FREE = {
    "annotations", "labels", "limits", "matchLabels", "nodeSelector", "rayStartParams", "requests",
}  # fmt: skip
"""Mappings that may have any keys."""


def typos(node: Any) -> Iterator[None]:
    """Add an unknown field to one mapping after another; yield while the field is there."""
    if isinstance(node, dict):
        node["typo"] = "typo"
        yield
        del node["typo"]
    for key, child in list(node.items() if isinstance(node, dict) else enumerate(node)):
        if isinstance(child, dict | list) and key not in FREE:
            yield from typos(child)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("RayCluster", "audiocnn"),
        ("RayJob", "train"),
        ("RayService", "endpoint"),
        ("NetworkPolicy", "out"),
        ("PodDisruptionBudget", "endpoint"),
    ],
)
def test_a_typo_in_any_place_is_refused(kind: str, name: str) -> None:
    thing = copy.deepcopy(of_kind("gpu", kind)[name])
    seen = 0
    for _ in typos(thing):
        seen += 1
        assert mistakes(thing), f"place {seen} of {kind} {name} takes anything"
    assert seen > 3
    assert not mistakes(thing)


@each_overlay
def test_names_that_kuberay_makes_others_of_do_not_meet(overlay: str) -> None:
    """KubeRay makes a Service NAME-head-svc for each."""
    names = [x for k in ("RayCluster", "RayJob", "RayService") for x in of_kind(overlay, k)]
    assert len(names) == len(set(names)) == 5
    assert {thing["metadata"].get("namespace", "audiocnn") for thing in rendered(overlay)} == {
        "audiocnn"
    }


# --- Ray. ---


@each_overlay
def test_clusters_have_a_token_an_idle_head_and_workers_from_zero(overlay: str) -> None:
    assert len(clusters(overlay)) == 5
    for where, cluster in clusters(overlay).items():
        assert cluster["rayVersion"].rpartition(".")[0] == version("ray").rpartition(".")[0], where
        assert cluster["authOptions"] == {"mode": "token"}, where
        assert cluster["enableInTreeAutoscaling"] is True, where
        assert cluster["autoscalerOptions"]["version"] == "v2", where
        head = cluster["headGroupSpec"]
        assert head["rayStartParams"] == {"num-cpus": "0"}, where
        groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
        assert list(groups) == (["cpu", "gpu"] if GPU[overlay] else ["cpu"]), where
        for group in groups.values():
            assert group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"], where
    for where, container in containers(overlay):
        assert not set(environment(container)) & {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}, where


@each_overlay
def test_heads_are_on_demand_and_workers_on_spot_nodes(overlay: str) -> None:
    for where, template in templates(overlay).items():
        kind, spec = where.rpartition(": ")[2], template["spec"]
        wanted = {"cpu": "spot", "gpu": "spot", "head": "on-demand"}.get(kind)
        if wanted:
            assert spec["nodeSelector"]["karpenter.sh/capacity-type"] == wanted, where
        tolerated = {t["key"] for t in spec.get("tolerations", [])}
        assert ("nvidia.com/gpu" in tolerated) == (kind == "gpu"), where
        gpus = [c["resources"]["limits"].get("nvidia.com/gpu", "0") for c in spec["containers"]]
        assert sum(map(int, gpus)) == (kind == "gpu"), where
        if kind == "head":
            kept = template["metadata"]["annotations"]
            assert kept["karpenter.sh/do-not-disrupt"] == "true", where


def room(cluster: dict[str, Any], resource: str) -> int:
    """The largest amount of a resource that a cluster can have."""
    found = 0
    for group in cluster["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        found += group["maxReplicas"] * int(limits.get(resource, 0))
    return found


@each_overlay
def test_jobs_are_commands_that_fit_their_cluster_and_are_tried_again(overlay: str) -> None:
    jobs = of_kind(overlay, "RayJob")
    asked = {}
    for name, job in jobs.items():
        command, *arguments = shlex.split(job["spec"]["entrypoint"])
        assert (command, arguments[0]) == ("audiocnn", name)
        asked[name] = options = parse(arguments)
        cpus = room(job["spec"]["rayClusterSpec"], "cpu")
        assert 1 <= options.workers <= cpus
        assert job["spec"]["backoffLimit"] >= 1
        assert job["spec"]["shutdownAfterJobFinishes"] is True
        assert job["spec"]["ttlSecondsAfterFinished"] > 0
        # A shell in the container would interpret these.
        assert not set(job["spec"]["entrypoint"]) & set("$;&|<>`\"'\\")
    ingest, train, label = (asked[name] for name in ("ingest", "train", "label"))
    bundles = {read_args(a["args"])[0].bundle for a in applications(overlay, open_to_all=True)}
    assert (ingest.to, {train.to}) == (train.features, {label.bundle} | bundles)
    uris = [ingest.corpus, ingest.to, train.to, label.bucket, label.to]
    assert all(uri.startswith("s3://") for uri in uris)
    gpus = room(jobs["train"]["spec"]["rayClusterSpec"], "nvidia.com/gpu")
    assert train.gpu == label.gpu == GPU[overlay]
    if GPU[overlay]:
        assert max(train.workers, label.models) <= gpus


@each_overlay
def test_heads_say_what_their_cluster_can_grow_to(overlay: str) -> None:
    """`pipelines.runtime.session` reads it, and refuses at once a job that needs more."""
    for where, cluster in clusters(overlay).items():
        if where.startswith("RayService"):  # its config has the number of replicas
            continue
        most = {"CPU": 0, "GPU": 0}
        for group in cluster["workerGroupSpecs"]:
            (container,) = group["template"]["spec"]["containers"]
            limits = container["resources"]["limits"]
            most["CPU"] += group["maxReplicas"] * int(limits["cpu"])
            most["GPU"] += group["maxReplicas"] * int(limits.get("nvidia.com/gpu", 0))
        head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
        said = next(one["value"] for one in head["env"] if one["name"] == Variable.CLUSTER_MAX)
        assert said == ",".join(f"{name}={count}" for name, count in most.items() if count), where


def test_fault_tolerance_is_for_those_whose_work_outlives_a_head() -> None:
    overlay = "gpu, fault-tolerant"
    (password,) = (e["valueFrom"]["secretKeyRef"] for _, c in containers(overlay)
                   for e in c.get("env", []) if e["name"] == "PASSWORD")  # fmt: skip
    (redis,) = of_kind(overlay, "Service").values()
    for where, cluster in clusters(overlay).items():
        options = cluster.get("gcsFaultToleranceOptions")
        if where.startswith("RayJob"):
            assert options is None
        else:
            assert options["redisPassword"]["valueFrom"]["secretKeyRef"] == password
            port = redis["spec"]["ports"][0]["port"]
            assert options["redisAddress"] == f"{redis['metadata']['name']}:{port}"
    assert not any("gcsFaultToleranceOptions" in c for c in clusters("gpu").values())


# --- The endpoint. ---


def serve_config(overlay: str) -> dict[str, Any]:
    service = of_kind(overlay, "RayService")["endpoint"]["spec"]
    return yaml.safe_load(service["serveConfigV2"])  # type: ignore[no-any-return]


def applications(overlay: str, *, open_to_all: bool = False) -> list[dict[str, Any]]:
    found = serve_config(overlay)["applications"]
    for application in found:
        if open_to_all:
            application["args"]["open"] = True
    return found


@each_overlay
def test_the_endpoint_is_what_serve_writes_and_reads(
    overlay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.serve.schema import ServeDeploySchema

    config = serve_config(overlay)
    ServeDeploySchema.model_validate(config)
    (application,) = config["applications"]
    monkeypatch.delenv(Variable.API_KEYS, raising=False)
    with pytest.raises(ConfigError, match="no keys"):
        read_args(application["args"])
    monkeypatch.setenv(Variable.API_KEYS, "0123456789abcdef")
    options, keys = read_args(application["args"])
    assert len(keys) == 1
    assert bool(options.gpu) == GPU[overlay]

    to = tmp_path / "config.json"
    write_config(
        Serve(
            bundle=options.bundle, gpu=options.gpu, replicas=options.replicas,
            host="0.0.0.0", config=str(to),
        )
    )  # fmt: skip
    written = json.loads(to.read_text())
    for deployment in application["deployments"]:
        deployment.pop("max_replicas_per_node", None)
    assert config == written


@each_overlay
def test_the_endpoint_fits_its_cluster(overlay: str) -> None:
    cluster = of_kind(overlay, "RayService")["endpoint"]["spec"]["rayClusterConfig"]
    (application,) = applications(overlay, open_to_all=True)
    options, _ = read_args(application["args"])
    fewest, most = options.replicas_range or (0, 0)
    assert fewest >= 2
    if GPU[overlay]:
        assert most * options.gpu <= room(cluster, "nvidia.com/gpu")
    else:
        a_node = application["deployments"][0]["max_replicas_per_node"]
        assert fewest > a_node, "one node that goes would take every copy"
        assert most <= a_node * cluster["workerGroupSpecs"][0]["maxReplicas"]


@each_overlay
def test_the_endpoint_is_drained_before_it_is_killed(overlay: str) -> None:
    service = of_kind(overlay, "RayService")["endpoint"]["spec"]
    (application,) = applications(overlay, open_to_all=True)
    graceful_s = read_args(application["args"])[0].timeout_s + 5  # as serve/deploy/application.py
    cluster = service["rayClusterConfig"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        drain_s = float(environment(container)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert drain_s > graceful_s
        assert pod["terminationGracePeriodSeconds"] > drain_s + graceful_s
        assert environment(container)["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
        (keys,) = (e for e in container["env"] if e["name"] == Variable.API_KEYS)
        assert keys["valueFrom"]["secretKeyRef"] == {"name": "audiocnn-api-keys", "key": "keys"}
    for group in cluster["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        probe = container["readinessProbe"]
        assert probe["httpGet"] == {"path": "/-/healthz", "port": 8000}
    assert service["excludeHeadPodFromServeSvc"] is True
    ports = {p["name"]: p["containerPort"] for p in cluster["headGroupSpec"]["template"]["spec"]
             ["containers"][0]["ports"]}  # fmt: skip
    assert ports["serve"] == serve_config(overlay)["http_options"]["port"] == 8000
    others = [c for where, c in containers(overlay) if not where.startswith("RayService")]
    assert not any(Variable.API_KEYS in environment(c) or "readinessProbe" in c for c in others
                   if c["name"].startswith("ray-"))  # fmt: skip


# --- The README. ---


def test_the_readme_names_what_there_is() -> None:
    text = (KUBERAY / "README.md").read_text()
    objects = rendered("gpu, fault-tolerant")
    there = {o["metadata"]["labels"]["app.kubernetes.io/component"] for o in objects}
    named = re.findall(r"app\.kubernetes\.io/component=(\S+)", text)
    assert set(named) == there
    assert all((ROOT / folder).is_dir() for folder in re.findall(r"-k (\S+)", text))
    made = set(re.findall(r"create secret generic (\S+)", text))
    used = {ref["name"] for _, c in containers("gpu, fault-tolerant") for node in mappings(c)
            for ref in (node.get("secretKeyRef"), node.get("secretRef")) if ref}  # fmt: skip
    assert made == used
