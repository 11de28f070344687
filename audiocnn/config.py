"""The options of the library, as frozen dataclasses, and the environment variables of all packages.

This module imports neither torch nor ray.

The command line is generated from these classes, and it must answer `--help` and usage errors
at once. So the classes are here, and the modules that use them re-export them.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeVar, cast, get_type_hints

from audiocnn import __version__
from audiocnn.errors import ConfigError, FormatError

Config = TypeVar("Config")

_ADDED = "added"

UNKNOWN = "unknown"
"""Predicted label when the score is below the class's threshold. No class may have this name."""

FRONT_END_VERSION = 1
"""Version of the log-mel computation.

Increase it when the same bytes and the same FeatureConfig no longer give the same log-mel.
"""


class Variable(StrEnum):
    """The environment variables of audiocnn, and the one of Ray that decides where jobs run.

    Other variables of Ray and of AWS are read where they are used.
    """

    API_KEYS = "AUDIOCNN_API_KEYS"
    """The endpoint's API keys, separated by commas."""
    CLUSTER_MAX = "AUDIOCNN_CLUSTER_MAX"
    """The most resources that the cluster may get, such as `CPU=32,GPU=4`."""
    ENDPOINT_TOKEN = "AUDIOCNN_ENDPOINT_TOKEN"  # noqa: S105
    """Set by `serve` itself: the token by which replicas know requests of their own HAProxy."""
    LOG = "AUDIOCNN_LOG"
    """`json` prints one line of JSON for each event, instead of text."""
    SHARED_DISK = "AUDIOCNN_SHARED_DISK"
    """`1` says that all nodes of a cluster have the same disk at the same path."""
    RAY_ADDRESS = "RAY_ADDRESS"
    """The cluster to join; `ray job submit` sets it."""

    def get(self) -> str:
        """Return the variable's value in this process; "" if it is not set."""
        return os.environ.get(self, "")


def added(default: Any) -> Any:
    """Return a dataclass field that the first version of its format did not have.

    A file without this field means the default. A field that has its default is not written, so
    that the fingerprint stays the same and earlier versions can read the file.
    """
    return field(default=default, metadata={_ADDED: True})


def require(condition: bool, message: str) -> None:
    """Raise ConfigError(message) if the condition is false."""
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class AudioLimits:
    """Limits on a recording, checked on its header before decoding, and while decoding."""

    max_bytes: int = 16 * 2**30
    """Largest encoded recording, in bytes."""
    max_channels: int = 8
    """Highest number of channels."""
    min_rate_hz: int = 4_000
    """Lowest sample rate, in Hz."""
    max_rate_hz: int = 192_000
    """Highest sample rate, in Hz."""
    min_duration_s: float = 0.02
    """Shortest recording, in seconds."""
    max_duration_s: float = 86_400.0
    """Longest recording, in seconds."""
    max_samples: int = 2**38
    """Highest number of decoded samples of a recording, summed over its channels."""

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
    """How a recording is cut into mono windows of the same sample rate and length."""

    sample_rate: int = 22_050
    """Sample rate to which every recording is converted, in Hz."""
    window_s: float = 5.0
    """Length of a window, in seconds."""
    hop_s: float = 5.0
    """Time from the start of one window to the start of the next, in seconds."""
    min_tail_s: float = 0.5
    """Drop a last, partial window with less new sound than this, in seconds.
    The only window of a recording is always kept."""
    pad: Literal["zeros", "repeat"] = "zeros"
    """How a partial window is filled: with silence, or by repeating its sound."""

    def __post_init__(self) -> None:
        require(
            4_000 <= self.sample_rate <= 192_000, "sample_rate must be between 4000 and 192000 Hz"
        )
        require(0.05 <= self.window_s <= 600, "window_s must be between 0.05 and 600 seconds")
        require(0 < self.hop_s <= self.window_s, "hop_s must be above 0 and at most window_s")
        require(0 <= self.min_tail_s <= self.window_s, "min_tail_s must be within 0 and window_s")

    @property
    def window_samples(self) -> int:
        """Number of samples in a window."""
        return round(self.window_s * self.sample_rate)

    @property
    def hop_samples(self) -> int:
        """Number of samples from the start of one window to the start of the next."""
        return max(1, round(self.hop_s * self.sample_rate))


@dataclass(frozen=True, kw_only=True)
class FeatureConfig(WindowConfig):
    """The whole front end: windows, and the log-mel spectrogram of each window.

    Log-mels are in decibels of power, on the HTK mel scale. A full-scale sine reaches about 20
    log10(n_fft / 4) dB. The STFT is centred, pads by reflection and uses a periodic Hann window,
    as torchaudio does by default.
    """

    n_fft: int = 1_024
    """Length of an STFT frame, in samples."""
    hop_length: int = 512
    """Distance from one STFT frame to the next, in samples."""
    n_mels: int = 128
    """Number of mel bands."""
    f_min: float = 0.0
    """Lower edge of the lowest band, in Hz."""
    f_max: float | None = None
    """Upper edge of the highest band, in Hz. If not given: half the sample rate."""
    floor_db: float = -100.0
    """Lowest log-mel level, in dB; lower levels, such as digital silence, are raised to it."""

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
        """Return this config with another hop, in seconds; None keeps it. Raises ConfigError."""
        return self if hop_s is None else dataclasses.replace(self, hop_s=hop_s)

    @property
    def f_max_hz(self) -> float:
        """Upper edge of the highest band, in Hz."""
        return self.sample_rate / 2 if self.f_max is None else self.f_max

    @property
    def n_frames(self) -> int:
        """Number of STFT frames in a window, which is padded by n_fft // 2 samples at both ends."""
        return 1 + (self.window_samples - self.n_fft % 2) // self.hop_length

    @property
    def fingerprint(self) -> str:
        """Identifier of this front end, 16 hex digits: equal fingerprints mean equal log-mels."""
        return content_fingerprint({"front_end": FRONT_END_VERSION, **to_json(self)})


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A residual CNN (He et al. 2016, basic blocks); its input is a log-mel with one channel."""

    stages: tuple[int, int, int, int] = (3, 4, 6, 3)
    """Number of residual blocks in each of layer1 to layer4."""
    channels: int = 64
    """Number of channels of conv1 and layer1; each later layer doubles it."""
    pooling: Literal["mean", "mean+max"] = "mean"
    """How the maps of layer4 become features. mean: their mean over bands and time.
    mean+max: mean over bands, then mean plus maximum over time (Kong et al. 2020).
    The maximum helps to detect short sounds."""
    dropout: float = 0.5
    """Dropout probability before the linear head; 0 switches dropout off."""

    def __post_init__(self) -> None:
        require(
            len(self.stages) == 4 and min(self.stages) >= 1, "stages must be four counts above 0"
        )
        require(1 <= self.channels <= 512, "channels must be within 1 and 512")
        require(0 <= self.dropout < 1, "dropout must be within 0 and 1")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of log-mel batches during training; 0 switches a method off."""

    mixup_alpha: float = 0.2
    """Parameter of mixup's Beta distribution (Zhang et al. 2018); 0 switches mixup off."""
    mixup_probability: float = 0.5
    """Probability that a batch is mixed, from 0 to 1; 0 switches mixup off."""
    time_shift: float = 0.5
    """Largest circular shift in time, as a fraction of the window; 0 switches shifts off."""
    stretch: float = 0.0
    """Largest stretch in time and in frequency, as a fraction (0.1: 0.9 to 1.1 times); 0: none."""
    filter_db: float = 0.0
    """Largest gain of a random, smooth filter over the bands, up or down, in dB; 0: no filter."""
    time_masks: int = 2
    """Number of SpecAugment masks over time (Park et al. 2019); 0 switches them off."""
    time_mask_frames: int = 30
    """Largest width of a mask over time, in STFT frames."""
    band_masks: int = 2
    """Number of SpecAugment masks over mel bands; 0 switches them off."""
    band_mask_bands: int = 20
    """Largest width of a mask over mel bands, in bands."""

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
    """How a model is trained: with AdamW, OneCycle (Smith 2018) and label smoothing."""

    epochs: int = 100
    """Number of passes over the training clips."""
    batch_size: int = 32
    """Number of windows in a step, summed over all workers."""
    max_lr: float = 2e-3
    """Peak learning rate of OneCycle."""
    warmup: float = 0.3
    """Fraction of the steps before the peak learning rate, between 0 and 1."""
    weight_decay: float = 0.01
    """Weight decay of AdamW; 0 switches it off."""
    label_smoothing: float = 0.1
    """Strength of label smoothing (Szegedy et al. 2016), from 0 to below 1; 0 switches it off."""
    ema_decay: float = 0.0
    """Decay of the exponential moving average of the weights that is saved.
    0: the last weights are saved. At most, it covers about the last tenth of the steps so far."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """Number format of the forward pass.
    auto: bfloat16 if the GPU or CPU computes with it, else float32."""
    compile: bool = False
    """Compile the model with torch.compile: minutes at the start, faster in long GPU runs."""
    seed: int = 0
    """Random seed; on CPU, the same seed and number of workers give the same result."""
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
    """Return a config as JSON values, without `added` fields that have their default."""
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
    """Return the config that `to_json` wrote; a missing field gets its default.

    Raises FormatError for a field that this version does not know, and ConfigError for a value
    that is not allowed. Both messages name the file if `storage.read_json` read `plain` from one.
    """
    origin = getattr(plain, "origin", None)
    where = f"{origin.uri}: " if origin else ""
    hints = get_type_hints(kind)
    unknown = ", ".join(sorted(set(plain) - set(hints)))
    if unknown:
        raise unknown_error(plain, f"{kind.__name__} has {unknown}")
    values = {}
    for name, value in plain.items():
        if dataclasses.is_dataclass(hints[name]):
            value = from_json(cast("type[Any]", hints[name]), value)
        values[name] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from error
    except TypeError as error:  # a value of another type, which cannot be compared
        raise FormatError(f"{where}{kind.__name__} is damaged ({error})") from error


def unknown_error(plain: dict[str, Any], what: str) -> FormatError:
    """Return the error for something in `plain` that this version does not know.

    It names the file, and the version that wrote it, if `storage.read_json` read `plain` from one.
    """
    origin = getattr(plain, "origin", None)
    where = f"{origin.uri}: " if origin else ""
    written_by = (origin.written_by if origin else None) or "a later one"
    return FormatError(
        f"{where}{what}, which audiocnn {__version__} does not know; read it with the version that "
        f"wrote it ({written_by}) or a later one"
    )


def content_fingerprint(plain: dict[str, Any]) -> str:
    """Return the first 16 hex digits of the SHA-256 of a JSON object in canonical form."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the options that differ, as `name BEFORE and not NOW`, for an error message."""
    return ", ".join(
        f"{name} {before.get(name)} and not {now.get(name)}"
        for name in dict.fromkeys([*now, *before])
        if before.get(name) != now.get(name)
    )
