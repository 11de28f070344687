"""The options of the library, as frozen dataclasses that import neither torch nor ray.

They stand together, not beside their owners, because the command line is generated from
them and must answer `--help` and every usage error at once. Their owners re-export them.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast, get_type_hints

from audiocnn import __version__
from audiocnn.errors import ConfigError, FormatError

Config = TypeVar("Config")

_ADDED = "added"

UNKNOWN = "unknown"
"""The answer below a class's threshold: no class may be called so."""

FRONT_END_VERSION = 1
"""Raise when the same bytes and the same FeatureConfig begin to give another log-mel."""


def added(default: Any) -> Any:
    """A field that the first version of its format did not have.

    A file without it means the default. A config that has the default is written without it, so
    that its fingerprint stays the same and earlier versions can read it.
    """
    return field(default=default, metadata={_ADDED: True})


def require(condition: bool, message: str) -> None:
    """Raise ConfigError(message) unless the condition holds."""
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class AudioLimits:
    """What a recording may be; checked on its header before decoding, and while decoding."""

    max_bytes: int = 16 * 2**30
    """Most bytes of one encoded recording."""
    max_channels: int = 8
    """Most channels."""
    min_rate_hz: int = 4_000
    """Lowest sample rate."""
    max_rate_hz: int = 192_000
    """Highest sample rate."""
    min_duration_s: float = 0.02
    """Shortest recording."""
    max_duration_s: float = 86_400.0
    """Longest recording, decoded."""
    max_samples: int = 2**38
    """Most samples of a recording, decoded, over all its channels."""

    def __post_init__(self) -> None:
        require(self.max_bytes > 0, "max_bytes must be above 0")
        require(self.max_channels >= 1, "max_channels must be at least 1")
        require(
            1_000 <= self.min_rate_hz <= self.max_rate_hz,
            "min_rate_hz must be at least 1000 and not above max_rate_hz",
        )
        require(
            0 < self.min_duration_s <= self.max_duration_s,
            "min_duration_s must be above 0 and not above max_duration_s",
        )
        require(self.max_samples > 0, "max_samples must be above 0")


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """How a recording becomes mono windows of one rate and one length."""

    sample_rate: int = 22_050
    """Rate that every recording is resampled to, Hz."""
    window_s: float = 5.0
    """Length of a window, seconds."""
    hop_s: float = 5.0
    """From one window's start to the next one's, seconds."""
    min_tail_s: float = 0.5
    """A last, partial window shorter than this is left out (never the only one)."""
    pad: Literal["zeros", "repeat"] = "zeros"
    """How a partial window is filled: with silence, or by repeating it."""

    def __post_init__(self) -> None:
        require(
            4_000 <= self.sample_rate <= 192_000, "sample_rate must be between 4000 and 192000 Hz"
        )
        require(0.05 <= self.window_s <= 600, "window_s must be between 0.05 and 600 seconds")
        require(0 < self.hop_s <= self.window_s, "hop_s must be above 0 and at most window_s")
        require(0 <= self.min_tail_s <= self.window_s, "min_tail_s must be within 0 and window_s")

    @property
    def window_samples(self) -> int:
        """Samples in a window."""
        return round(self.window_s * self.sample_rate)

    @property
    def hop_samples(self) -> int:
        """Samples from one window's start to the next one's."""
        return max(1, round(self.hop_s * self.sample_rate))


@dataclass(frozen=True, kw_only=True)
class FeatureConfig(WindowConfig):
    """The whole front end: windows, and the log-mel spectrogram of each.

    The log-mel is in decibels of power, on the HTK mel scale, from a centred, reflected,
    periodic-Hann STFT: torchaudio's defaults, and the tutorial's. A full-scale sine reaches
    about 20 log10(n_fft / 4) dB.
    """

    n_fft: int = 1_024
    """Samples in an STFT frame."""
    hop_length: int = 512
    """Samples from one STFT frame to the next."""
    n_mels: int = 128
    """Mel bands."""
    f_min: float = 0.0
    """Lower edge of the lowest band, Hz."""
    f_max: float | None = None
    """Upper edge of the highest band, Hz; half the sample rate when not given."""
    floor_db: float = -100.0
    """Quietest level, dB: what lies below, digital silence above all, is raised to it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(16 <= self.n_fft <= self.window_samples, "n_fft must be within 16 and a window")
        require(0 < self.hop_length <= self.n_fft, "hop_length must be within 1 and n_fft")
        require(8 <= self.n_mels <= self.n_fft // 2, "n_mels must be within 8 and half of n_fft")
        require(-200 <= self.floor_db <= 0, "floor_db must be within -200 and 0")
        require(
            0 <= self.f_min < self.f_max_hz <= self.sample_rate / 2,
            "f_min and f_max must be ordered and within 0 and half the sample rate",
        )

    def with_hop(self, hop_s: float | None) -> "FeatureConfig":
        """The same with another hop, where one is given. Raises ConfigError."""
        return self if hop_s is None else dataclasses.replace(self, hop_s=hop_s)

    @property
    def f_max_hz(self) -> float:
        """Upper edge of the highest band, Hz."""
        return self.sample_rate / 2 if self.f_max is None else self.f_max

    @property
    def n_frames(self) -> int:
        """STFT frames in a window, which is padded by half a frame, rounded down, at both ends."""
        return 1 + (self.window_samples - self.n_fft % 2) // self.hop_length

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that name this front end: equal fingerprints, equal log-mels."""
        return content_fingerprint({"front_end": FRONT_END_VERSION, **to_json(self)})


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A residual CNN (He et al. 2016, basic blocks) over a log-mel as a one-channel picture."""

    stages: tuple[int, int, int, int] = (3, 4, 6, 3)
    """Residual blocks in layer1 to layer4."""
    channels: int = 64
    """Channels of conv1 and layer1; doubled by each later layer."""
    pooling: Literal["mean", "mean+max"] = "mean"
    """How layer4's maps become features: by their mean, or by their mean over bands and then its
    mean plus its maximum over time (Kong et al. 2020), which hears what is short."""
    dropout: float = 0.5
    """Dropout before the linear head."""

    def __post_init__(self) -> None:
        require(
            len(self.stages) == 4 and min(self.stages) >= 1, "stages must be four counts above 0"
        )
        require(1 <= self.channels <= 512, "channels must be within 1 and 512")
        require(0 <= self.dropout < 1, "dropout must be within 0 and 1")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of log-mel batches while training; 0 switches a part off."""

    mixup_alpha: float = 0.2
    """Mixup's Beta parameter (Zhang et al. 2018)."""
    mixup_probability: float = 0.5
    """Share of the batches that are mixed."""
    time_shift: float = 0.5
    """Largest circular shift in time, as a part of the window."""
    stretch: float = 0.0
    """Largest stretch in time and in frequency, as a part of the window."""
    filter_db: float = 0.0
    """Largest gain of a random, smooth filter over the bands, up or down, dB."""
    time_masks: int = 2
    """SpecAugment (Park et al. 2019): masks over frames."""
    time_mask_frames: int = 30
    """Widest mask over frames."""
    band_masks: int = 2
    """SpecAugment: masks over mel bands."""
    band_mask_bands: int = 20
    """Widest mask over mel bands."""

    def __post_init__(self) -> None:
        require(0 <= self.mixup_probability <= 1, "mixup_probability must be within 0 and 1")
        require(0 <= self.time_shift <= 1, "time_shift must be within 0 and 1")
        require(0 <= self.stretch < 1, "stretch must be within 0 and 1")
        for name in ("mixup_alpha", "filter_db", "time_masks", "band_masks"):
            require(getattr(self, name) >= 0, f"{name} must not be negative")
        for name in ("time_mask_frames", "band_mask_bands"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a model is trained: AdamW, OneCycle (Smith 2018), label smoothing."""

    epochs: int = 100
    """Passes over the training clips."""
    batch_size: int = 32
    """Windows in a step, over all workers."""
    max_lr: float = 2e-3
    """OneCycle's peak learning rate."""
    warmup: float = 0.3
    """Part of the steps before that peak."""
    weight_decay: float = 0.01
    """AdamW's weight decay."""
    label_smoothing: float = 0.1
    """Label smoothing (Szegedy et al. 2016)."""
    ema_decay: float = 0.0
    """Keep an exponential moving average of the weights, of a tenth of the steps so far at most; 0
    keeps the last ones."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """Numbers of the forward pass; auto: bfloat16 where the GPU or CPU computes with it."""
    compile: bool = False
    """Let torch.compile build the training step: minutes at first, faster on long GPU runs."""
    seed: int = 0
    """Same seed, same worker count: same result on CPU."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "epochs must be at least 1")
        require(self.batch_size >= 2, "batch_size must be at least 2 (batch norm)")
        require(self.max_lr > 0, "max_lr must be above 0")
        require(0 < self.warmup < 1, "warmup must be within 0 and 1")
        require(0 <= self.label_smoothing < 1, "label_smoothing must be within 0 and 1")
        require(0 <= self.ema_decay < 1, "ema_decay must be within 0 and 1")
        require(self.weight_decay >= 0, "weight_decay must not be negative")
        require(0 <= self.seed < 2**31, "seed must be within 0 and 2147483647")


def to_json(config: Any) -> dict[str, Any]:
    """A config as plain JSON values, without fields that are `added` and have their default."""
    plain = {}
    for one in dataclasses.fields(config):
        value = getattr(config, one.name)
        if _ADDED in one.metadata and value == one.default:
            continue
        if dataclasses.is_dataclass(value):
            value = to_json(value)
        plain[one.name] = list(value) if isinstance(value, tuple) else value
    return plain


def from_json(kind: type[Config], plain: dict[str, Any]) -> Config:
    """The config that `to_json` wrote; a field that is missing has its default.

    Raises FormatError for a field that this version does not know, and ConfigError for a value
    that is not allowed. Both name the file where `plain` was read from one by `storage.read_json`.
    """
    origin = getattr(plain, "origin", None)
    where = f"{origin.uri}: " if origin else ""
    written_by = origin.written_by if origin else None
    hints = get_type_hints(kind)
    unknown = ", ".join(sorted(set(plain) - set(hints)))
    if unknown:
        raise FormatError(
            f"{where}{kind.__name__} has {unknown}, which audiocnn {__version__} does not know; "
            f"read it with the version that wrote it ({written_by or 'a later one'}) or a later one"
        )
    values = {}
    for name, value in plain.items():
        if dataclasses.is_dataclass(hints[name]):
            value = from_json(cast("type[Any]", hints[name]), value)
        values[name] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from error


def content_fingerprint(plain: dict[str, Any]) -> str:
    """Sixteen hex digits of the SHA-256 of a JSON value in canonical form."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(mine: Any, theirs: Any) -> str:
    """The fields in which a config is not another one of its kind, for an error message."""
    a, b = dataclasses.asdict(mine), dataclasses.asdict(theirs)
    return ", ".join(f"{name} {a[name]!r} and not {b[name]!r}" for name in a if a[name] != b[name])
