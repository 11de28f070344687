"""The front end: windows of samples -> log-mel spectrograms in decibels. It needs no torch.

`audiocnn.features.torch_logmel` is the same front end for GPUs; a test holds the two equal.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.fft

from audiocnn.config import FeatureConfig

__all__ = ["FeatureConfig", "LogMel"]

Array = npt.NDArray[np.float32]


class LogMel:
    """Windows to log-mel spectrograms, on the CPU.

    The same as torchaudio's MelSpectrogram and amplitude_to_DB, and as librosa's melspectrogram
    with HTK's mel scale (within 0.01 dB).
    """

    def __init__(self, config: FeatureConfig) -> None:
        self.config = config
        self._hann = hann(config.n_fft)
        self._filters = np.ascontiguousarray(mel_filters(config).T)

    def __call__(self, windows: Sequence[Array] | Array) -> Array:
        """[windows, samples] float32, full scale ±1 -> [windows, n_mels, frames] float32.

        In decibels, 10 log10(power), at least `floor_db`. Windows are as long as the config says,
        or all of another length.
        """
        logmels: Array = np.stack([self._filters @ self._power(samples).T for samples in windows])
        np.maximum(logmels, np.float32(10 ** (self.config.floor_db / 10)), out=logmels)
        np.log10(logmels, out=logmels)
        logmels *= 10
        return logmels

    def _power(self, samples: Array) -> Array:
        """[n_frames, n_fft // 2 + 1], the square of each frame's spectrum."""
        n_fft, hop = self.config.n_fft, self.config.hop_length
        around = np.pad(samples, n_fft // 2, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(around, n_fft)[::hop] * self._hann
        spectrum = scipy.fft.rfft(frames, overwrite_x=True)  # numpy's takes half as long again
        power: Array = np.square(spectrum.real)
        power += np.square(spectrum.imag)
        return power


def hann(length: int) -> Array:
    """The Hann window of an STFT frame, [length], which begins a period that it does not end."""
    window: Array = (np.sin(np.pi * np.arange(length) / length) ** 2).astype(np.float32)
    return window


def mel_filters(config: FeatureConfig) -> Array:
    """The share of each STFT bin in each mel band, [n_fft // 2 + 1, n_mels].

    Triangles on HTK's mel scale whose peaks are 1, as torchaudio's `melscale_fbanks` gives them.
    """
    bins = np.linspace(0, config.sample_rate // 2, config.n_fft // 2 + 1)[:, None]
    edges = _band_edges(config)
    rising = (bins - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins) / np.diff(edges)[1:]
    filters: Array = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    return filters


def band_centres(config: FeatureConfig) -> npt.NDArray[np.float64]:
    """The middle of each mel band, [n_mels] Hz."""
    return _band_edges(config)[1:-1]


def _band_edges(config: FeatureConfig) -> npt.NDArray[np.float64]:
    """[n_mels + 2] Hz, evenly spaced on HTK's mel scale: band k is from edge k to edge k + 2."""
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (config.f_min, config.f_max_hz))
    edges: npt.NDArray[np.float64] = 700 * (
        10 ** (np.linspace(low, high, config.n_mels + 2) / 2595) - 1
    )
    return edges
