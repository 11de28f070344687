"""Mix channels to mono: their mean, or a single channel where they cancel out in the mean."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

_LOST = 0.02
"""Smallest share of the energy of an uncorrelated mix that the mean of all channels must keep.

Below it, the channels have cancelled each other out. The mean of n uncorrelated channels has 1/n
of their mean energy; so has the mean if only one of n channels has sound.
"""
_AS_LOUD = 0.5
"""A channel with this share of the loudest channel's energy counts as equally loud.

Without it, the choice could alternate between two channels from block to block.
"""
_NOTHING = 1e-14
"""Mean square below which a block holds only rounding noise: -140 dBFS."""


def to_mono(block: Array) -> tuple[Array, int]:
    """Return [frames] float32 and the channel used, counted from 1; 0 is the mean of all channels.

    `block` is [frames, channels] float32. If the channels cancel each other out, as with a
    recorder that has one side wired with reversed polarity, the first of the loudest channels is
    used. Constant offsets (DC) do not affect the choice.
    """
    count = block.shape[1]
    if count == 1:
        return block[:, 0], 0
    mixed = block[:, 0].copy()
    for channel in range(1, count):
        mixed += block[:, channel]
    mixed *= np.float32(1 / count)
    energies = np.array([_energy(block[:, channel]) for channel in range(count)])
    kept, unlike = _energy(mixed), energies.sum() / count**2
    if kept >= _LOST * unlike or unlike < _NOTHING * len(block):
        return mixed, 0
    loudest = int(np.argmax(energies >= _AS_LOUD * energies.max()))
    return block[:, loudest].copy(), loudest + 1


def _energy(samples: Array) -> float:
    centred = samples - samples.mean()
    return float(centred @ centred)
