"""The network policies on Kubernetes: which pods may connect, by the labels of KubeRay's pods."""

from typing import Any

from helpers.manifests import each_overlay, of_kind

RAY_NODE = {"ray.io/is-ray-node": "yes"}
"""The label that KubeRay gives to each of its pods."""
PODS = {
    "head": RAY_NODE | {"ray.io/node-type": "head"},
    "worker": RAY_NODE | {"ray.io/node-type": "worker"},
    "endpoint's head": RAY_NODE | {"ray.io/node-type": "head", "ray.io/serve": "false"},
    "endpoint": RAY_NODE | {"ray.io/node-type": "worker", "ray.io/serve": "true"},
    "cleanup": RAY_NODE | {"ray.io/node-type": "redis-cleanup"},
    "submitter": {"app.kubernetes.io/component": "submitter"},
    "redis": {"app.kubernetes.io/component": "redis"},
    "client": {"audiocnn/client": "true"},
    "stranger": {"app": "other"},
}
ELSEWHERE = {
    "operator": ({}, {"app.kubernetes.io/name": "kuberay-operator"}),
    "ingress": ({"audiocnn/ingress": "true"}, {"app": "nginx"}),
    "prometheus": ({"audiocnn/metrics": "true"}, {"app": "prometheus"}),
    "outsider": ({}, {"app": "other"}),
}
"""Pods of other namespaces: the labels of the namespace and of the pod."""


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    operators = {
        "In": lambda value, values: value in values,
        "NotIn": lambda value, values: value not in values,
    }
    return all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items()) and all(
        operators[e["operator"]](labels.get(e["key"]), e["values"])
        for e in selector.get("matchExpressions", [])
    )


def is_peer(peer: dict[str, Any], name: str) -> bool:
    if name in PODS:
        return "namespaceSelector" not in peer and selects(peer["podSelector"], PODS[name])
    namespace, labels = ELSEWHERE[name]
    return (
        "namespaceSelector" in peer
        and selects(peer["namespaceSelector"], namespace)
        and selects(peer.get("podSelector", {}), labels)
    )


def allowed(overlay: str, direction: str, pod: str, other: str | None, port: int) -> bool:
    """Whether a pod's policies allow TCP from or to another pod; None: an address elsewhere."""
    policies = [p["spec"] for p in of_kind(overlay, "NetworkPolicy").values()]
    mine = [
        p for p in policies
        if direction in p["policyTypes"] and selects(p["podSelector"], PODS[pod])
    ]  # fmt: skip
    rules = [rule for p in mine for rule in p.get(direction.lower(), [])]
    key = {"Ingress": "from", "Egress": "to"}[direction]
    return not mine or any(
        port in {p["port"] for p in rule.get("ports", [{"port": port}])
                 if p.get("protocol", "TCP") == "TCP"}
        and (key not in rule or (other is not None and any(is_peer(p, other) for p in rule[key])))
        for rule in rules
    )  # fmt: skip


@each_overlay
def test_doors_open_for_those_who_have_business(overlay: str) -> None:
    def comers(pod: str, port: int) -> set[str]:
        every = [*PODS, *ELSEWHERE]
        return {other for other in every if allowed(overlay, "Ingress", pod, other, port)}

    nodes = {"head", "worker", "endpoint's head", "endpoint", "cleanup"}
    for node in nodes:
        assert comers(node, 10_001) == comers(node, 6379) == comers(node, 8404) == nodes
        assert comers(node, 8080) == nodes | {"prometheus"}
        assert comers(node, 44217) == nodes | {"prometheus"}
        dashboard = {"submitter", "operator"} if "head" in node else set()
        assert comers(node, 8265) == nodes | dashboard
        clients = {"client", "ingress"} if node == "endpoint" else set()
        assert comers(node, 8000) == nodes | clients
    redis = {"head", "endpoint's head", "cleanup"} if "fault-tolerant" in overlay else set()
    assert comers("redis", 6379) == redis
    assert comers("submitter", 8000) == comers("client", 80) == comers("redis", 80) == set()


@each_overlay
def test_workers_reach_storage_and_each_other_and_no_metadata_service(overlay: str) -> None:
    for pod in ("worker", "endpoint", "submitter"):
        assert allowed(overlay, "Egress", pod, "head", 8265)
        assert allowed(overlay, "Egress", pod, None, 443)
        assert allowed(overlay, "Egress", pod, None, 53)
        assert not allowed(overlay, "Egress", pod, None, 80)
        assert not allowed(overlay, "Egress", pod, "redis", 6379)
    for pod in ("head", "cleanup"):
        assert allowed(overlay, "Egress", pod, "redis", 6379)
    assert allowed(overlay, "Egress", "head", None, 6443), "the autoscaler asks Kubernetes"
