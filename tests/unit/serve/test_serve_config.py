"""`audiocnn serve` writes a config file and reads it, and has as many replicas as fit."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from audiocnn.errors import ConfigError
from audiocnn.model.bundle import Bundle
from serve.deploy.config_file import read_args, write_config
from serve.deploy.run import check, size_replicas
from serve.options import LIMITS, Serve


def test_a_config_file_needs_no_key_here_and_says_what_differs(
    bundle: Bundle, tmp_path: Path
) -> None:
    bundle.write(str(tmp_path / "b"))
    limits = replace(LIMITS, max_bytes=1 << 20)
    options = Serve(
        bundle=str(tmp_path / "b"), host="0.0.0.0", port=9_000, queue=8, replicas=(1, 4),
        keys="on/the/cluster", limits=limits, config=str(tmp_path / "app.json"),
    )  # fmt: skip
    assert check(options) == ()
    config = json.loads(Path(write_config(options)).read_text())
    assert config["http_options"] == {"host": "0.0.0.0", "port": 9_000}
    (application,) = config["applications"]
    assert application["args"] == {
        "bundle": str(tmp_path / "b"), "keys": "on/the/cluster", "replicas": [1, 4], "queue": 8,
        "limits": {"max_bytes": 1 << 20},
    }  # fmt: skip
    (endpoint,) = application["deployments"]
    assert endpoint == {"name": "Endpoint", "user_config": {"bundle": str(tmp_path / "b")}}
    assert json.loads(Path(write_config(options)).read_text()) == config  # replaces its own
    mine = tmp_path / "mine.yaml"
    for text in ("applications: mine", '{"applications": [{"import_path": "mine:build"}]}', "[1]"):
        mine.write_text(text)
        with pytest.raises(ConfigError, match=rf"--config {mine}: `serve` did not write this"):
            write_config(replace(options, config=str(mine)))
        assert mine.read_text() == text
    with pytest.raises(ConfigError, match="--config /no/where: No such file"):
        write_config(replace(options, config="/no/where"))
    args = {**application["args"], "open": True, "keys": None}
    read, keys = read_args(args)
    assert read == replace(options, port=8_000, keys=None, config=None)
    assert keys == ()
    for bad, message in [
        ({**args, "open": False}, "no keys; set AUDIOCNN_API_KEYS"),
        ({**args, "nothing": 1}, "no option nothing"),
        ({"open": True}, "no bundle"),
    ]:
        with pytest.raises(ConfigError, match=message):
            read_args(bad)


def test_copies_are_as_many_as_there_is_room_for() -> None:
    assert size_replicas(Serve(bundle="b"), 4, 0).replicas == (4, 4)
    assert size_replicas(Serve(bundle="b", gpu=0.25), 4, 2).replicas == (8, 8)
    assert size_replicas(Serve(bundle="b", replicas=(0, 9)), 4, 0).replicas == (0, 9)
    for options in (Serve(bundle="b", replicas=5), Serve(bundle="b", gpu=1.0)):
        with pytest.raises(ConfigError, match="at most, and each replica needs"):
            size_replicas(options, 4, 0)
