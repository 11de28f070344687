"""The front end: windows of samples -> log-mel spectrograms in decibels. It needs no torch.

`audiocnn.features.torch_logmel` is the same front end for GPUs; a test compares the two.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.fft

from audiocnn.config import FeatureConfig

__all__ = ["FeatureConfig", "LogMel"]

Array = npt.NDArray[np.float32]


class LogMel:
    """The log-mel front end on the CPU.

    The result is the same as that of torchaudio's MelSpectrogram and amplitude_to_DB, and as that
    of librosa's melspectrogram with HTK's mel scale (within 0.01 dB).
    """

    def __init__(self, config: FeatureConfig) -> None:
        self.config = config
        self._hann = hann(config.n_fft)
        self._filters = np.ascontiguousarray(mel_filters(config).T)

    def __call__(self, windows: Sequence[Array] | Array) -> Array:
        """Convert [windows, samples] float32, full scale ±1, to [windows, n_mels, frames] float32.

        The result is in decibels, 10 log10(power), at least `floor_db`. All windows have the same
        length, which may differ from the config's.
        """
        logmels: Array = np.stack([self._filters @ self._power(samples).T for samples in windows])
        np.maximum(logmels, np.float32(10 ** (self.config.floor_db / 10)), out=logmels)
        np.log10(logmels, out=logmels)
        logmels *= 10
        return logmels

    def _power(self, samples: Array) -> Array:
        """Return the power spectrum of each frame, [frames, n_fft // 2 + 1]."""
        n_fft, hop = self.config.n_fft, self.config.hop_length
        around = np.pad(samples, n_fft // 2, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(around, n_fft)[::hop] * self._hann
        spectrum = scipy.fft.rfft(frames, overwrite_x=True)  # NumPy's takes 1.5 times as long
        power: Array = np.square(spectrum.real)
        power += np.square(spectrum.imag)
        return power


def hann(length: int) -> Array:
    """Return the Hann window of an STFT frame, [length] float32, periodic with `length`."""
    window: Array = (np.sin(np.pi * np.arange(length) / length) ** 2).astype(np.float32)
    return window


def mel_filters(config: FeatureConfig) -> Array:
    """Return the weight of each STFT bin in each mel band, [n_fft // 2 + 1, n_mels] float32.

    The filters are triangles with peak 1 and edges that are evenly spaced on HTK's mel scale, as
    those of torchaudio's `melscale_fbanks`.
    """
    bins = np.linspace(0, config.sample_rate // 2, config.n_fft // 2 + 1)[:, None]
    edges = _band_edges(config)
    rising = (bins - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins) / np.diff(edges)[1:]
    filters: Array = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    return filters


def band_centres(config: FeatureConfig) -> npt.NDArray[np.float64]:
    """Return the centre of each mel band, [n_mels] Hz."""
    return _band_edges(config)[1:-1]


def _band_edges(config: FeatureConfig) -> npt.NDArray[np.float64]:
    """Return [n_mels + 2] edges in Hz, evenly spaced in mel; band k is from edge k to k + 2."""
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (config.f_min, config.f_max_hz))
    edges: npt.NDArray[np.float64] = 700 * (
        10 ** (np.linspace(low, high, config.n_mels + 2) / 2595) - 1
    )
    return edges
