"""The Serve application: one deployment on CPUs; on GPUs a model behind an ingress on CPUs."""

from typing import Any

from ray import serve

from serve.deploy.config_file import read_args
from serve.deploy.replicas import Endpoint, ModelReplica
from serve.options import Serve

NAME = "audiocnn"
_SPREAD = 3
"""Copies on a cluster that decode for models on GPUs, where there are as many: one is not all."""


def build(args: dict[str, Any]) -> serve.Application:
    """The application of a config file's `args`: see `read_args`. Raises AudioCNNError."""
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
    """The application: `keys` are digests, `fewest` those copies that decode for models on GPUs.

    `fingerprints` are those of the bundle and of the one `beside`, where they are kept.
    """
    common: dict[str, Any] = {
        "user_config": {"bundle": options.bundle, **(fingerprints or {})},
        # The gate refuses what is too much, and says so; Serve would hold it, or cut its batch.
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
    # One that decodes and packs on a CPU keeps no GPU busy.
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
            # Half of what a copy takes at once: another one is there before the first refuses.
            "target_ongoing_requests": max(1, options.queue // 2),
            "upscale_delay_s": 5,
            "downscale_delay_s": 120,
        }
    }
