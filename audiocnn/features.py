"""The only front end: windows of samples -> log-mel spectrograms in decibels."""

from importlib import import_module
from typing import Any

import numpy as np
import torch

from audiocnn.config import FeatureConfig
from audiocnn.errors import InstallationError

__all__ = ["FeatureConfig", "LogMel"]


class LogMel(torch.nn.Module):
    """Batches of windows to log-mel spectrograms, on whichever device it was moved to.

    forward: [batch, window_samples] float32 in full scale ±1
          -> [batch, n_mels, n_frames] float32, decibels, 10 log10(power), at least floor_db.

    The same as torchaudio's MelSpectrogram and amplitude_to_DB (within 0.01 dB), whose filters it
    takes, in half to three quarters of the time: the power is taken without the square root of a
    complex modulus.
    """

    window: torch.Tensor
    filters: torch.Tensor

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        filters = mel_filters(config)
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)

    @torch.inference_mode()
    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """[batch, window_samples] -> [batch, n_mels, n_frames] in decibels."""
        if samples.is_cuda or len(samples) < 2:
            return self._logmel(samples)
        # One window's frames stay in a core's cache; a batch's do not, and take twice as long.
        return torch.cat([self._logmel(window) for window in torch.split(samples, 1)])

    def _logmel(self, samples: torch.Tensor) -> torch.Tensor:
        n_fft, hop = self.config.n_fft, self.config.hop_length
        around = torch.nn.functional.pad(samples[:, None], (n_fft // 2, n_fft // 2), mode="reflect")
        frames = around[:, 0].unfold(1, n_fft, hop) * self.window
        spectrum = torch.view_as_real(torch.fft.rfft(frames))
        power = spectrum[..., 0].square().addcmul_(spectrum[..., 1], spectrum[..., 1])
        mel = self.filters @ power.transpose(1, 2)
        return mel.clamp_(min=10 ** (self.config.floor_db / 10)).log10_().mul_(10)

    def numpy(self, windows: list[np.ndarray]) -> np.ndarray:
        """Windows of [window_samples] float32 -> [len(windows), n_mels, n_frames] float32."""
        samples = torch.from_numpy(np.stack(windows)).to(self.window.device)
        logmel: np.ndarray = self(samples).cpu().numpy()
        return logmel


def mel_filters(config: FeatureConfig) -> torch.Tensor:
    """The share of each STFT bin in each mel band, [n_fft // 2 + 1, n_mels]."""
    filters: torch.Tensor = load_torchaudio().functional.melscale_fbanks(
        n_freqs=config.n_fft // 2 + 1,
        f_min=config.f_min,
        f_max=config.f_max_hz,
        n_mels=config.n_mels,
        sample_rate=config.sample_rate,
    )
    return filters


def load_torchaudio() -> Any:
    """The package. Raises InstallationError, with the mend, where it does not fit torch."""
    try:
        import_module("torchaudio.functional")
    except OSError as error:
        raise InstallationError(
            "torchaudio's compiled extension does not fit this torch (a CUDA build of torchaudio "
            "beside a CPU build of torch). `audiocnn doctor --mend` removes the extension, which "
            "audiocnn does not need"
        ) from error
    return import_module("torchaudio")
