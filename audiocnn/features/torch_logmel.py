"""The front end for GPUs: `audiocnn.features.logmel` in torch, on the device of the model."""

from importlib import import_module
from typing import Any

import torch

from audiocnn.config import FeatureConfig
from audiocnn.errors import InstallationError
from audiocnn.features.logmel import hann, mel_filters


class TorchLogMel(torch.nn.Module):
    """The log-mel front end for batches of windows, on the device of its buffers.

    forward: [batch, window_samples] float32 in full scale ±1
          -> [batch, n_mels, n_frames] float32, decibels, 10 log10(power), at least floor_db.
    """

    hann: torch.Tensor
    filters: torch.Tensor

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("hann", torch.from_numpy(hann(config.n_fft)), persistent=False)
        filters = torch.from_numpy(mel_filters(config))
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)

    @torch.inference_mode()
    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """Convert [batch, window_samples] to [batch, n_mels, n_frames] decibels."""
        n_fft, hop = self.config.n_fft, self.config.hop_length
        around = torch.nn.functional.pad(samples[:, None], (n_fft // 2, n_fft // 2), mode="reflect")
        frames = around[:, 0].unfold(1, n_fft, hop) * self.hann
        spectrum = torch.view_as_real(torch.fft.rfft(frames))
        power = spectrum[..., 0].square().addcmul_(spectrum[..., 1], spectrum[..., 1])
        mel = self.filters @ power.transpose(1, 2)
        return mel.clamp_(min=10 ** (self.config.floor_db / 10)).log10_().mul_(10)


def load_torchaudio() -> Any:
    """Import torchaudio. Raises InstallationError if its compiled extension does not fit torch."""
    try:
        import_module("torchaudio.functional")
    except OSError as error:
        raise InstallationError(
            "torchaudio's compiled extension does not fit this torch (a CUDA build of torchaudio "
            "beside a CPU build of torch). `audiocnn doctor --mend` removes the extension, which "
            "audiocnn does not need"
        ) from error
    return import_module("torchaudio")
