"""The config file for Ray's `serve deploy`: written on this machine, read on the cluster."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from audiocnn import storage
from audiocnn.config import Variable, to_json
from audiocnn.errors import ConfigError
from serve.api.keys import read_keys
from serve.options import LIMITS, Serve

_APP = "serve.app:build"
_OF_THE_COMMAND = ("config", "host", "port", "metrics_port")


def write_config(options: Serve) -> str:
    """Write the config file for `serve deploy`; return its path.

    Raises ConfigError, also if a file that `write_config` did not write is at this path.
    """
    path, defaults = str(options.config), to_json(Serve(bundle=""))
    if Path(path).exists() and not _is_config(path):
        raise ConfigError(f"--config {path}: `serve` did not write this file; name another one")
    args = {
        name: value
        for name, value in to_json(options).items()
        if name not in _OF_THE_COMMAND and value != defaults[name]
    }
    if limits := args.get("limits"):
        args["limits"] = {k: v for k, v in limits.items() if v != defaults["limits"].get(k)}
    for name in {"bundle", "beside", "labels"} & args.keys():
        args[name] = storage.absolute(args[name])
    deployments = [{"name": "Endpoint", "user_config": {"bundle": args["bundle"]}}]
    if options.gpu:
        deployments.append({"name": "Model", "user_config": {"bundle": args["bundle"]}})
    config = {
        "http_options": {"host": options.host, "port": options.port},
        "applications": [
            {
                "name": "audiocnn",
                "route_prefix": "/",
                "import_path": _APP,
                "args": args,
                "deployments": deployments,
            }
        ],
    }
    try:
        Path(path).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}") from error
    return path


def _is_config(path: str) -> bool:
    """Whether `write_config` wrote a file."""
    try:
        plain = json.loads(Path(path).read_bytes())
        return bool(plain["applications"][0]["import_path"] == _APP)
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return False


def read_args(args: dict[str, Any]) -> tuple[Serve, tuple[str, ...]]:
    """Return the options in a config file's `args`, and the digests of the API keys.

    `args` are fields of `Serve`. Keys are read here, on the cluster, from the file that `keys`
    names or from AUDIOCNN_API_KEYS. Without keys, `args` are refused unless they contain
    `open: true`. Raises AudioCNNError.
    """
    values = dict(args)
    is_open = values.pop("open", False)
    names = {field.name for field in dataclasses.fields(Serve)} - set(_OF_THE_COMMAND)
    if odd := sorted(set(values) - names):
        raise ConfigError(f"args: no option {', '.join(odd)}; use {', '.join(sorted(names))}")
    if "bundle" not in values:
        raise ConfigError("args: no bundle")
    # A cluster's proxies listen at the address of its config, not only on this machine.
    values |= {"host": "0.0.0.0", "cors": tuple(values.get("cors", ()))}  # noqa: S104
    values["limits"] = dataclasses.replace(LIMITS, **values.get("limits", {}))
    if isinstance(values.get("replicas"), list):
        values["replicas"] = tuple(values["replicas"])
    options = Serve(**values)
    keys = read_keys(options.keys)
    if not keys and not is_open:
        raise ConfigError(
            f"args: no keys; set {Variable.API_KEYS} on the cluster, name a file with `keys`, or "
            "allow requests without keys with `open: true`"
        )
    return options, keys
