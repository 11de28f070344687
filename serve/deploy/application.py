"""The Serve application: one deployment on CPUs, or a model on GPUs behind an ingress on CPUs."""

from typing import Any

from ray import serve

from serve.deploy.config_file import read_args
from serve.deploy.replicas import Endpoint, ModelReplica
from serve.options import Serve

NAME = "audiocnn"
_SPREAD = 3
"""Fewest ingress replicas for models on GPUs, but not more than models. With several replicas, the
loss of one does not stop the endpoint."""


def build(args: dict[str, Any]) -> serve.Application:
    """Build the application from a config file's `args`: see `read_args`. Raises AudioCNNError."""
    options, keys = read_args(args)
    fewest = options.replicas_range[0] if options.replicas_range else 1
    return application(options, keys, fewest=max(1, min(_SPREAD, fewest)))


def application(
    options: Serve,
    keys: tuple[str, ...],
    fingerprints: dict[str, str] | None = None,
    *,
    fewest: int = 1,
) -> serve.Application:
    """Build the application. `keys` are the digests of the API keys.

    `fingerprints` are given if the cluster keeps the bundles: those of the bundle and of `beside`.
    `fewest` is the smallest number of ingress replicas that decode for models on GPUs.
    """
    common: dict[str, Any] = {
        "user_config": {"bundle": options.bundle, **(fingerprints or {})},
        # The gate refuses excess requests with a reason. A limit here would make them wait, or make
        # batches smaller.
        "max_ongoing_requests": 100_000,
        "graceful_shutdown_timeout_s": options.timeout_s + 5,
        "health_check_period_s": 5,
        "logging_config": {"enable_access_log": False},
    }
    endpoint = serve.ingress()(Endpoint)
    one_cpu = {"num_cpus": 1}
    if not options.gpu:
        both: Any = serve.deployment(
            name="Endpoint", ray_actor_options=one_cpu, **_scaling(options), **common
        )(endpoint)
        return both.bind(options, keys)  # type: ignore[no-any-return]
    share = {"num_cpus": 0, "num_gpus": options.gpu}
    model: Any = serve.deployment(
        name="Model", ray_actor_options=share, **_scaling(options), **common
    )(ModelReplica)
    most = options.replicas_range[1] if options.replicas_range else 1
    # One ingress replica, which decodes and compresses on a CPU, cannot keep a GPU busy.
    several = _autoscaling(options, fewest, 4 * most)
    ingress: Any = serve.deployment(
        name="Endpoint", ray_actor_options=one_cpu, **several, **common
    )(endpoint)
    return ingress.bind(options, keys, model.bind(options))  # type: ignore[no-any-return]


def _scaling(options: Serve) -> dict[str, Any]:
    fewest, most = options.replicas_range or (1, 1)
    return {"num_replicas": most} if fewest == most else _autoscaling(options, fewest, most)


def _autoscaling(options: Serve, fewest: int, most: int) -> dict[str, Any]:
    return {
        "autoscaling_config": {
            "min_replicas": fewest,
            "max_replicas": most,
            # Scale up at half of a replica's request limit, so that a new replica is ready before
            # the old ones refuse requests.
            "target_ongoing_requests": max(1, options.queue // 2),
            "upscale_delay_s": 5,
            "downscale_delay_s": 120,
        }
    }
