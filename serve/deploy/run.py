"""`audiocnn serve`: check the options, start Serve, and stop it at the end."""

import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

from audiocnn import storage
from audiocnn.config import Variable
from audiocnn.errors import AudioCNNError, ConfigError, MismatchError
from audiocnn.model.bundle import Bundle
from audiocnn.review.label_index import read_state
from audiocnn.storage import machine
from serve.api.keys import read_keys
from serve.deploy.haproxy import LOOPBACK
from serve.options import Serve


def check(options: Serve) -> tuple[str, ...]:
    """Check everything that can be wrong before Ray starts; return the digests of the API keys.

    Raises AudioCNNError: no keys for an address that other machines can reach, a port that is
    taken, a bundle that is missing or damaged, labels that are missing or by another bundle.
    """
    storage.configure(options.storage_options)
    if options.config is not None:  # the cluster has its own keys and ports
        _check_artefacts(options)
        return ()
    keys = read_keys(options.keys)
    if not keys and not options.is_local:
        raise ConfigError(
            f"--host {options.host} can be reached by others, so it needs API keys: set "
            f"{Variable.API_KEYS} or name a file by --keys; `openssl rand -hex 32` makes a good key"
        )
    _check_artefacts(options)
    if not is_joined():
        _check_port(options)
    return keys


def is_joined() -> bool:
    """Whether this process joins an existing cluster, which has its own settings of the proxies."""
    return bool(Variable.RAY_ADDRESS.get())


def _check_artefacts(options: Serve) -> None:
    bundle = Bundle.read(options.bundle).fingerprint
    if options.beside is not None:
        Bundle.read(options.beside)
    _check_labels(options, bundle)


def _check_labels(options: Serve, bundle: str) -> None:
    """Raise MismatchError if another bundle made the labels, StorageError if there are none."""
    if options.labels is not None and (made_by := read_state(options.labels).bundle) != bundle:
        raise MismatchError(
            f"--labels {options.labels}: made by bundle {made_by}, but {options.bundle} is bundle "
            f"{bundle}; serve {made_by}, or label with {bundle} (--new-version keeps both)"
        )


def size_replicas(options: Serve, cpus: int, gpus: int) -> Serve:
    """Return the options with as many replicas as the cluster has room for, if no number is given.

    Raises ConfigError if the cluster has no room for the fewest replicas that are asked for.
    """
    room = machine.copies(gpus, options.gpu) if options.gpu else cpus
    fewest, most = options.replicas_range or (max(1, room),) * 2
    if fewest > room:
        share = f"{options.gpu:g} of a GPU" if options.gpu else "a CPU"
        raise ConfigError(
            f"--replicas {fewest}: the cluster has {cpus} CPUs and {gpus} GPUs at most, and each "
            f"replica needs {share}"
        )
    return replace(options, replicas=(fewest, most))


def listen(options: Serve) -> None:
    """Start Serve on the cluster that was started or joined.

    Raises ConfigError if Serve already runs and listens at another address: an application without
    keys would be open to everyone who can reach that address.
    """
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.serve.context import _get_global_client
    from ray.serve.exceptions import RayServeException

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        there = cast(Any, _get_global_client()).http_config
    except RayServeException:
        # Only our own HAProxy may reach the proxy behind it: see serve/deploy/haproxy.py.
        host = options.host if is_joined() else LOOPBACK
        serve.start(http_options=HTTPOptions(host=host, port=options.port))
        return
    if (there.host, there.port) != (options.host, options.port):
        raise ConfigError(
            f"--host {options.host} --port {options.port}: Serve of this cluster already listens "
            f"at {there.host}:{there.port}; give these, or stop it with `serve shutdown`"
        )


def start(options: Serve, keys: tuple[str, ...]) -> str:
    """Start the application; return its URL once it answers.

    Raises AudioCNNError if it does not start.
    """
    roll(options, keys)
    return f"http://{options.address}"


def roll(options: Serve, keys: tuple[str, ...]) -> str:
    """Serve the bundle that its URI holds now, replica by replica; return its fingerprint.

    The cluster keeps this bundle for replicas that start later, even if the URI changes. Raises
    AudioCNNError if the bundle does not load or start, or if another bundle made the labels; the
    previous bundle then goes on answering.
    """
    from ray import serve

    from serve.deploy import served_bundles
    from serve.deploy.application import NAME, application

    def deploy(fingerprints: dict[str, str]) -> None:
        serve.run(application(options, keys, fingerprints), name=NAME, route_prefix="/")

    before = served_bundles.served()
    try:
        now = {"fingerprint": served_bundles.keep(options.bundle)}
        _check_labels(options, now["fingerprint"])
        if options.beside is not None:
            now["beside"] = served_bundles.keep(options.beside)
        try:
            deploy(now)
        except RuntimeError as error:
            if before is not None:  # else later replicas would get the bundle that failed
                with suppress(RuntimeError):
                    deploy(before)
            first = str(error).splitlines()[0]
            raise ConfigError(f"the replicas do not start: {first}") from error
    except AudioCNNError:
        if before is not None:
            served_bundles.settle(before)
        raise
    served_bundles.settle(now, before)
    return now["fingerprint"]


def rolls(options: Serve, keys: tuple[str, ...]) -> Iterator[str]:
    """Serve until SIGINT or SIGTERM. On SIGUSR1 roll, and yield a sentence about the outcome."""
    again = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: again.set())
    signal.signal(signal.SIGTERM, _interrupt)
    while True:
        if again.wait(1.0):
            again.clear()
            try:
                yield f"bundle {roll(options, keys)} answers now"
            except AudioCNNError as error:
                yield f"the previous bundle still answers: {error}"


def _interrupt(*_: object) -> None:
    """End as by Ctrl-C. This does not use SIGINT: shells make background commands ignore it."""
    raise KeyboardInterrupt


def stop() -> None:
    """Let current requests finish, and end Serve; on a joined cluster, only this application."""
    import ray
    from ray import serve
    from ray.serve.exceptions import RayServeException

    from serve.deploy import served_bundles
    from serve.deploy.application import NAME

    if not ray.is_initialized():
        return
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with suppress(RayServeException):  # Serve was never started
        serve.delete(NAME)  # lets replicas finish; shutdown alone ends their proxy at once
        served_bundles.forget()
    if not is_joined():
        serve.shutdown()


def _check_port(options: Serve) -> None:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((options.host, options.port))
        except OSError as error:
            raise ConfigError(
                f"--host {options.host} --port {options.port}: {error.strerror}"
            ) from error
