"""How an endpoint is set up, and what a request may ask for. Imports no torch, no ray."""

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from audiocnn.config import AudioLimits, require

Maps = Literal["none", "layers", "blocks", "channels"]
Arrays = Literal["uint8", "float16"]

LIMITS = AudioLimits(max_bytes=32 << 20, max_duration_s=600.0, max_samples=64 << 20)
"""What a recording may be that comes over the network."""
MOST_WINDOWS = 1_200
"""Windows of one request, however small its hop."""
MOST_OVERLAP = 20
"""Windows of a live stream that any of its sound may be in: what it costs is bounded by its length.
"""


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Answer over HTTP with predictions, what the model saw, and the maps of every layer."""

    bundle: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="BUNDLE")]
    """Bundle that `audiocnn train` wrote."""
    host: str = "127.0.0.1"
    """Address to listen on; any but this machine's own wants API keys."""
    port: int = 8000
    """Port to listen on."""
    keys: str | None = None
    """File of API keys, one a line; AUDIOCNN_API_KEYS (with commas between) when not given."""
    replicas: int | tuple[int, int] | None = None
    """Copies of the model; MIN MAX: as many as the load asks for, MIN 0: none while nobody asks.
    One a CPU (a GPU with --gpu) when not given."""
    gpu: float = 0.0
    """Share of a GPU for each copy of the model, 0.25 for four on one; 0: on CPUs."""
    batch_size: int = 16
    """Most windows, of whatever requests, in one forward."""
    queue: int = 20
    """Requests at once for each copy of the endpoint; the next one is told to come again. It bounds
    how long an accepted one waits."""
    streams: int = 20
    """Live streams at once for each copy of the endpoint; they take no places of --queue."""
    rate: float = 0.0
    """Requests a second and replica for each key, twice as many in a burst; 0: no limit."""
    cors: tuple[str, ...] = ()
    """Origins whose pages may ask, like https://example.org."""
    upload_timeout_s: float = 30.0
    """Longest that a request may take to arrive."""
    timeout_s: float = 30.0
    """Longest that an answer may take once its request is there."""
    metrics_port: int | None = None
    """Port of Ray's metrics, ours among them, for Prometheus; any when not given."""
    beside: str | None = None
    """Another bundle, to compare with on the dashboard."""
    labels: str | None = None
    """Labels that `audiocnn label` made with this bundle, to look through on the dashboard."""
    config: str | None = None
    """Write a config file for Ray's `serve deploy` here, and serve nothing."""
    storage_options: dict[str, Any] = field(default_factory=dict, repr=False)
    """How storage is reached, as for the other verbs: JSON."""
    limits: AudioLimits = LIMITS

    def __post_init__(self) -> None:
        fewest, most = self.replicas_range or (1, 1)
        require(0 <= fewest <= most and most >= 1, "replicas must be at least 1, MIN not above MAX")
        require(self.gpu >= 0 and (self.gpu <= 1 or self.gpu.is_integer()), "gpu is a share or 1")
        for name in ("port", "metrics_port"):
            port = getattr(self, name)
            require(port is None or 0 < port < 65_536, f"{name} must be within 1 and 65535")
        require(1 <= self.batch_size <= 64, "batch_size must be within 1 and 64")
        require(self.queue >= 1, "queue must be at least 1")
        require(self.streams >= 0, "streams must not be negative")
        require(self.rate >= 0, "rate must not be negative")
        require(self.upload_timeout_s > 0 < self.timeout_s, "timeouts must be above 0")
        for origin in self.cors:
            require(
                re.fullmatch(r"https?://[^/*\s]+", origin) is not None,
                f"cors: {origin!r} is no origin like https://example.org",
            )

    @property
    def replicas_range(self) -> tuple[int, int] | None:
        """Fewest and most copies of the model; None: to be decided by what there is."""
        return (self.replicas,) * 2 if isinstance(self.replicas, int) else self.replicas

    @property
    def address(self) -> str:
        """Where it listens, as it stands in a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether nobody but this machine can ask."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True, kw_only=True)
class PredictRequest:
    """What a request wants to know of its recording."""

    top_k: int = 3
    maps: Maps = "none"
    layer: str | None = None
    """The map whose channels are wanted."""
    channels: tuple[int, int] = (0, 16)
    """From one channel up to another, which is left out."""
    arrays: Arrays = "uint8"
    explain: str | None = None
    """A class: where the window speaks for it."""
    sound: bool = False
    """With the sound of the places that speak for it."""
    window: int | None = None
    """The window to look into; the one that says most for the answer when not given."""
    window_s: float | None = None
    hop_s: float | None = None
    peaks: int = 1_000
    spectrogram: bool = True
