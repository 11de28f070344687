"""Explain a prediction: Grad-CAM over the log-mel, and the part of the sound that it marks."""

import numpy as np
import torch

from audiocnn.audio.decode import Samples
from audiocnn.config import FeatureConfig
from audiocnn.features.logmel import hann, mel_filters
from audiocnn.model.backbone import Backbone


def grad_cam(
    model: Backbone, logmel: np.ndarray, index: int, layer: str | None = None
) -> np.ndarray:
    """Compute which places of a window support a class: Grad-CAM (Selvaraju et al. 2017).

    `logmel` is [n_mels, n_frames] decibels, `index` the class's index in the bundle's classes.
    `layer` is one of `model.layers`, by default `model.cam_layer`: a later layer is coarser and
    closer to the prediction.
    Returns [n_mels, n_frames] float32 from 0 to 1; 1 is the place with the strongest support. If
    no place supports the class, all values are 0.
    """
    device = next(model.parameters()).device
    kept: list[torch.Tensor] = []
    module = model.get_submodule(layer or model.cam_layer)
    hook = module.register_forward_hook(lambda _m, _i, out: kept.append(out))
    try:
        with torch.inference_mode(False), torch.enable_grad():
            logits = model(torch.from_numpy(logmel).to(device).float()[None])
            (gradient,) = torch.autograd.grad(logits[0, index], kept[0])
    finally:
        hook.remove()
    weights = gradient.mean((2, 3), keepdim=True)
    cam = torch.relu((weights * kept[0].detach()).sum(1, keepdim=True))
    cam = torch.nn.functional.interpolate(
        cam, size=logmel.shape, mode="bilinear", align_corners=False
    )[0, 0]
    scaled: np.ndarray = (cam / cam.max().clamp(min=1e-12)).cpu().numpy()
    return scaled


@torch.inference_mode()
def marked_sound(samples: Samples, cam: np.ndarray, config: FeatureConfig) -> Samples:
    """Return the part of a window's sound that a Grad-CAM marks, to listen to.

    `samples` is [window_samples] float32. `cam` is [n_mels, n_frames] from 0 to 1: the fraction
    of each band that is kept at each time. Returns [window_samples] float32.
    """
    window = torch.from_numpy(hann(config.n_fft))
    # The inverse STFT needs frames that overlap.
    hop = min(config.hop_length, config.n_fft // 2)
    spectrum = torch.stft(
        torch.from_numpy(samples.copy()),  # torch needs a writable array
        config.n_fft,
        hop,
        window=window,
        return_complex=True,
    )
    filters = torch.from_numpy(mel_filters(config))
    # The mark of a bin is the mean of its bands' marks, weighted by its filter values.
    share = filters / filters.sum(1, keepdim=True).clamp(min=1e-12)
    at = torch.arange(spectrum.shape[1]) * hop // config.hop_length  # frames of `cam`
    marks = torch.from_numpy(cam)[:, at.clamp(max=cam.shape[1] - 1)]
    kept = torch.istft(
        spectrum * (share @ marks),
        config.n_fft,
        hop,
        window=window,
        length=len(samples),
    )
    sound: Samples = kept.numpy()
    return sound
