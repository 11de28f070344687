"""Augment a batch of log-mels on its device: time shift, stretch, filters, SpecAugment, mixup.

Random numbers come from torch's global generators. The trainer seeds them in every step, so a run
can be repeated.
"""

import torch
from torch.nn import functional

from audiocnn.config import AugmentConfig
from audiocnn.features.torch_logmel import load_torchaudio

__all__ = ["AugmentConfig", "augment", "mixup"]

_FILTER_POINTS = 4


def augment(logmel: torch.Tensor, mean: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    """Augment each window of [batch, n_mels, n_frames] decibels; return the same shape.

    Masks are filled with `mean`, [n_mels] decibels.
    """
    if config.time_shift:
        logmel = time_shift(logmel, config.time_shift)
    if config.stretch:
        logmel = random_stretch(logmel, config.stretch)
    if config.filter_db:
        logmel = logmel + random_filter(logmel, config.filter_db)
    return spec_augment(logmel, mean, config)


def time_shift(logmel: torch.Tensor, largest: float) -> torch.Tensor:
    """Roll each window in time, in either direction, by up to the fraction `largest` of it.

    The shape is [batch, n_mels, n_frames].
    """
    frames = logmel.shape[2]
    reach = max(1, int(largest * frames))
    shift = torch.randint(-reach, reach + 1, (len(logmel), 1), device=logmel.device)
    index = (torch.arange(frames, device=logmel.device)[None] + shift) % frames
    return logmel.gather(2, index[:, None].expand_as(logmel))


def random_stretch(logmel: torch.Tensor, largest: float) -> torch.Tensor:
    """Stretch each window in time and in frequency by up to `largest`, around a random point.

    This changes tempo and pitch: it is an affine map of [batch, n_mels, n_frames]; edges are
    repeated. `largest` is a fraction (0.1: 0.9 to 1.1 times).
    """
    clips = len(logmel)
    theta = torch.zeros(clips, 2, 3, device=logmel.device)
    scale = 1 + largest * (2 * torch.rand(clips, 2, device=logmel.device) - 1)
    centre = 2 * torch.rand(clips, 2, device=logmel.device) - 1
    theta[:, 0, 0], theta[:, 1, 1] = scale[:, 0], scale[:, 1]
    theta[:, :, 2] = centre * (1 - scale)
    grid = functional.affine_grid(theta, [clips, 1, *logmel.shape[1:]], align_corners=False)
    stretched = functional.grid_sample(
        logmel.unsqueeze(1), grid, padding_mode="border", align_corners=False
    )
    return stretched.squeeze(1)


def random_filter(logmel: torch.Tensor, largest_db: float) -> torch.Tensor:
    """Return a random gain curve over the bands for each window, [batch, n_mels, 1] decibels.

    It is linear between a few random gains within `largest_db`. It imitates another microphone,
    room or distance (FilterAugment, Nam et al. 2022).
    """
    gains = torch.empty(len(logmel), 1, _FILTER_POINTS, device=logmel.device)
    gains.uniform_(-largest_db, largest_db)
    curve = functional.interpolate(gains, logmel.shape[1], mode="linear", align_corners=True)
    return curve.transpose(1, 2)


def spec_augment(logmel: torch.Tensor, mean: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    """Apply SpecAugment's time and band masks (Park et al. 2019), different for each window.

    Shapes are those of `augment`.
    """
    # torchaudio draws a mask for each [window, channel] of a 4-D batch, so add a channel. It fills
    # masks with one number, so subtract each band's mean: the mean becomes 0.
    x = (logmel - mean[:, None]).unsqueeze(1)
    mask = load_torchaudio().functional.mask_along_axis_iid
    for _ in range(config.time_masks):
        x = mask(x, config.time_mask_frames, 0.0, 3)
    for _ in range(config.band_masks):
        x = mask(x, config.band_mask_bands, 0.0, 2)
    masked: torch.Tensor = x.squeeze(1) + mean[:, None]
    return masked


def mixup(
    logmel: torch.Tensor, labels: torch.Tensor, n_classes: int, config: AugmentConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix a batch with itself (mixup, Zhang et al. 2018), with the configured probability.

    Takes log-mels [batch, n_mels, n_frames] and labels [batch] int64. Returns log-mels of the same
    shape and soft targets [batch, n_classes].
    """
    targets = functional.one_hot(labels, n_classes).to(logmel.dtype)
    if config.mixup_alpha == 0 or torch.rand(()) >= config.mixup_probability:
        return logmel, targets
    alpha = torch.full((len(logmel),), config.mixup_alpha, device=logmel.device)
    # Validation of the arguments would wait for a GPU in every step.
    share = torch.distributions.Beta(alpha, alpha, validate_args=False).sample()
    other = torch.randperm(len(logmel), device=logmel.device)
    mixed = logmel * share[:, None, None] + logmel[other] * (1 - share[:, None, None])
    return mixed, targets * share[:, None] + targets[other] * (1 - share[:, None])
