"""The only front end: windows of samples -> log-mel spectrograms in decibels."""

from functools import partial
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

    Source: torchaudio's MelSpectrogram and amplitude_to_DB.
    """

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        torchaudio = load_torchaudio()
        self.config = config
        self.mel = torchaudio.transforms.MelSpectrogram(
            sample_rate=config.sample_rate,
            n_fft=config.n_fft,
            hop_length=config.hop_length,
            n_mels=config.n_mels,
            f_min=config.f_min,
            f_max=config.f_max_hz,
        )
        self._to_db = partial(
            torchaudio.functional.amplitude_to_DB,
            multiplier=10.0,
            amin=10 ** (config.floor_db / 10),
            db_multiplier=0.0,
        )

    @torch.inference_mode()
    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """[batch, window_samples] -> [batch, n_mels, n_frames] in decibels."""
        logmel: torch.Tensor = self._to_db(self.mel(samples))
        return logmel

    def numpy(self, windows: list[np.ndarray]) -> np.ndarray:
        """Windows of [window_samples] float32 -> [len(windows), n_mels, n_frames] float32."""
        device = self.mel.spectrogram.window.device
        logmel: np.ndarray = self(torch.from_numpy(np.stack(windows)).to(device)).cpu().numpy()
        return logmel


def load_torchaudio() -> Any:
    """The package. Raises InstallationError, with the mend, where it does not fit torch."""
    try:
        for part in ("functional", "transforms"):
            import_module(f"torchaudio.{part}")
    except OSError as error:
        raise InstallationError(
            "torchaudio's compiled extension does not fit this torch (a CUDA build of torchaudio "
            "beside a CPU build of torch). `audiocnn doctor --mend` removes the extension, which "
            "audiocnn does not need"
        ) from error
    return import_module("torchaudio")
