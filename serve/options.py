"""The options of an endpoint and of one request. Imports no torch and no ray."""

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from audiocnn.config import AudioLimits, require

Maps = Literal["none", "layers", "blocks", "channels"]
Arrays = Literal["uint8", "float16"]

LIMITS = AudioLimits(max_bytes=32 << 20, max_duration_s=600.0, max_samples=64 << 20)
"""Limits of a recording that is sent over the network."""
MOST_WINDOWS = 1_200
"""Most windows of one request, however small its hop is."""
MOST_OVERLAP = 20
"""Most windows of a live stream that may contain the same sample, so that the length of a stream
bounds its cost."""


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Serve a model over HTTP: predictions, the model's input, and feature maps of every layer."""

    bundle: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="BUNDLE")]
    """Bundle that `audiocnn train` wrote."""
    host: str = "127.0.0.1"
    """Address to listen on. An address that other machines can reach needs API keys."""
    port: int = 8000
    """Port to listen on."""
    keys: str | None = None
    """File of API keys, one per line. If not given: the keys in the variable
    AUDIOCNN_API_KEYS, separated by commas."""
    replicas: int | tuple[int, int] | None = None
    """Number of replicas of the model. Two numbers, MIN MAX: the number follows the load, and MIN 0
    means no replica while there are no requests. On CPUs each replica also answers HTTP. With
    --gpu, other replicas answer HTTP, and --queue, --streams and --rate apply to those. If not
    given: as many as fit on the CPUs (with --gpu: on the GPUs), or one with --config."""
    gpu: float = 0.0
    """Share of a GPU for each replica of the model: 0.25 puts four on one GPU; 0 uses CPUs.
    Above 1, it must be a whole number."""
    batch_size: int = 16
    """Largest number of windows in one forward pass. They may come from different requests."""
    queue: int = 20
    """Largest number of requests in progress in one replica of the endpoint. It refuses more with
    status 503 and Retry-After. This limits how long an accepted request waits."""
    streams: int = 20
    """Largest number of open live streams in one replica. They do not count for --queue."""
    rate: float = 0.0
    """Largest number of requests per second for each API key, in each replica; a burst may have
    twice as many. 0: no limit."""
    cors: tuple[str, ...] = ()
    """Origins of web pages that may send requests, for example https://example.org."""
    upload_timeout_s: float = 30.0
    """Longest time that a request may take to arrive, in seconds."""
    timeout_s: float = 30.0
    """Longest time from the arrival of the whole request to the end of its answer, in seconds."""
    metrics_port: int | None = None
    """Port of the Prometheus metrics of Ray and of this endpoint. If not given: any free port."""
    beside: str | None = None
    """Second bundle, to compare with the first one on the dashboard."""
    labels: str | None = None
    """Labels that `audiocnn label` made with this bundle, to browse on the dashboard."""
    config: str | None = None
    """Write a config file for Ray's `serve deploy` to this path, and start no endpoint."""
    storage_options: dict[str, Any] = field(default_factory=dict, repr=False)
    """Options for access to storage, as JSON; the same as for the other verbs."""
    limits: AudioLimits = LIMITS

    def __post_init__(self) -> None:
        fewest, most = self.replicas_range or (1, 1)
        require(0 <= fewest <= most and most >= 1, "replicas must be at least 1, MIN not above MAX")
        require(self.gpu >= 0, "gpu must not be negative")
        require(self.gpu <= 1 or self.gpu % 1 == 0, "gpu above 1 must be a whole number")
        for name in ("port", "metrics_port"):
            port = getattr(self, name)
            require(port is None or 0 < port < 65_536, f"{name} must be within 1 and 65535")
        require(1 <= self.batch_size <= 64, "batch_size must be within 1 and 64")
        require(self.queue >= 1, "queue must be at least 1")
        require(self.streams >= 0, "streams must not be negative")
        require(self.rate >= 0, "rate must not be negative")
        for name in ("upload_timeout_s", "timeout_s"):
            require(getattr(self, name) > 0, f"{name} must be above 0")
        for origin in self.cors:
            require(
                re.fullmatch(r"https?://[^/*\s]+", origin) is not None,
                f"cors: {origin!r} is not an origin like https://example.org",
            )

    @property
    def replicas_range(self) -> tuple[int, int] | None:
        """Fewest and most replicas of the model; None: the CPUs or GPUs of the cluster decide."""
        return (self.replicas,) * 2 if isinstance(self.replicas, int) else self.replicas

    @property
    def address(self) -> str:
        """Host and port, as they are written in a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the address."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True, kw_only=True)
class PredictRequest:
    """The options of one request about a recording."""

    top_k: int = 3
    maps: Maps = "none"
    layer: str | None = None
    """Layer to return single channels of, with maps="channels"."""
    channels: tuple[int, int] = (0, 16)
    """First channel to return, and the end, which is not included."""
    arrays: Arrays = "uint8"
    explain: str | None = None
    """Class to compute Grad-CAM evidence for."""
    sound: bool = False
    """Whether to return the sound of that evidence too."""
    window: int | None = None
    """Index of the window to inspect; None: where the recording's class has its highest score."""
    window_s: float | None = None
    hop_s: float | None = None
    peaks: int = 1_000
    spectrogram: bool = True
