"""The pods of cluster/kuberay have only the rights that they need, and expose nothing."""

import re

import audiocnn
from helpers.manifests import (
    GPU,
    containers,
    each_overlay,
    environment,
    mappings,
    of_kind,
    rendered,
    templates,
)


@each_overlay
def test_containers_may_do_nothing(overlay: str) -> None:
    (namespace,) = of_kind(overlay, "Namespace").values()
    enforced = namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    assert enforced == "restricted"
    for where, container in containers(overlay):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, where
        resources = container["resources"]
        assert {"cpu", "memory"} <= set(resources["limits"]), where
        assert resources["requests"] == resources["limits"], where
        writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
        assert writable <= {"/tmp", "/dev/shm", "/data"}, where
        if container["name"].startswith("ray-"):
            assert writable == {"/tmp", "/dev/shm"}, where
            assert environment(container)["HOME"] == "/tmp", where


@each_overlay
def test_pods_are_nobody_and_have_no_token_of_kubernetes(overlay: str) -> None:
    for where, template in templates(overlay).items():
        pod = template["spec"]
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True, where
        assert context["runAsUser"] == context["runAsGroup"] == context["fsGroup"] > 0, where
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert pod["automountServiceAccountToken"] is False, where
        assert not [key for key in pod if key.startswith("host")], where
        volumes = {kind for volume in pod.get("volumes", []) for kind in set(volume) - {"name"}}
        assert volumes <= {"emptyDir", "projected"}, where
        memory = [v["emptyDir"] for v in pod.get("volumes", []) if v["name"] == "shm"]
        assert all(m["medium"] == "Memory" and m["sizeLimit"] for m in memory), where
        # Only the autoscaler's container, which KubeRay adds, has a token of Kubernetes.
        secret = {v["name"] for v in pod.get("volumes", []) if "projected" in v}
        mounting = [c["name"] for c in pod["containers"]
                    if secret & {m["name"] for m in c["volumeMounts"]}]  # fmt: skip
        assert mounting == (["autoscaler"] if where.endswith(": head") else []), where


@each_overlay
def test_nothing_is_exposed_and_no_secret_is_written_down(overlay: str) -> None:
    for thing in rendered(overlay):
        assert thing["kind"] not in {"Secret", "Ingress"}
        for node in mappings(thing):
            assert node.get("type") not in {"NodePort", "LoadBalancer"}
            assert not {"serviceType", "enableIngress", "hostPort", "externalIPs"} & set(node)
    for where, container in containers(overlay):
        for one in container.get("env", []):
            if re.search("KEY|TOKEN|SECRET|PASSWORD", one["name"]):
                assert set(one["valueFrom"]) == {"secretKeyRef"}, where
        if container["name"].startswith("ray-"):
            assert container["envFrom"] == [{"secretRef": {"name": "audiocnn-storage"}}], where


@each_overlay
def test_images_are_one_and_tagged(overlay: str) -> None:
    images = {container["image"] for _, container in containers(overlay)}
    ours = {image for image in images if "/audiocnn:" in image}
    suffix = "-cuda" if GPU[overlay] else ""
    assert {image.partition(":")[2] for image in ours} == {audiocnn.__version__ + suffix}
    others = images - ours
    assert all(re.fullmatch(r"redis:\d+\.\d+\.\d+", image) for image in others)
    assert bool(others) == ("fault-tolerant" in overlay)
