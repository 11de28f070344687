"""cluster/aws.yaml, the input of `ray up`: Ray accepts it, and it opens no port."""

import copy
import shlex
from collections import Counter
from functools import cache
from typing import Any

import jsonschema
import pytest
import yaml

from helpers.manifests import ROOT, containers


@cache
def aws() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster" / "aws.yaml").read_text())  # type: ignore[no-any-return]


def test_aws_is_valid_to_ray() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = copy.deepcopy(aws())
    validate_config(prepare_config(config))
    config["available_node_types"]["cpu"]["typo"] = 1
    with pytest.raises(jsonschema.ValidationError, match="typo"):
        validate_config(prepare_config(config))


def test_aws_has_a_token_an_idle_head_and_workers_from_zero() -> None:
    options = aws()["docker"]["run_options"]
    (token_path,) = aws()["file_mounts"]
    assert "--env RAY_AUTH_MODE=token" in options
    assert f"--env RAY_AUTH_TOKEN_PATH={token_path}" in options
    assert {"--cap-drop ALL", "--security-opt no-new-privileges"} <= set(options)
    start = shlex.split(aws()["head_start_ray_commands"][-1])
    assert {"--head", "--num-cpus=0", "--dashboard-host=127.0.0.1"} <= set(start)
    types = aws()["available_node_types"]
    head, workers = types[aws()["head_node_type"]], [types["cpu"], types["gpu"]]
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    for worker in workers:
        assert worker["min_workers"] == 0 < worker["max_workers"]
        assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert aws()["max_workers"] == sum(worker["max_workers"] for worker in workers)
    most = Counter[str]()
    for worker in workers:
        most.update({n: worker["max_workers"] * c for n, c in worker["resources"].items()})
    assert f"--env AUDIOCNN_CLUSTER_MAX=CPU={most['CPU']},GPU={most['GPU']}" in options


def test_aws_opens_no_port_and_has_the_same_images() -> None:
    assert set(aws()["provider"]["security_group"]) == {"GroupName"}  # Ray adds ssh
    types = aws()["available_node_types"]
    for node in types.values():
        assert node["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        assert node["node_config"]["IamInstanceProfile"]["Name"]
        assert not {"NetworkInterfaces", "SecurityGroupIds"} & set(node["node_config"])
    images = {"cpu": aws()["docker"]["image"], "gpu": types["gpu"]["docker"]["worker_image"]}
    for overlay, image in images.items():
        assert {c["image"] for _, c in containers(overlay)} == {image}
