"""Channels -> one: the mean of them all, or one of them alone where the mean would lose it."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

_LOST = 0.02
"""Part of the energy that unlike channels leave in their mean, below which the mean has lost them.

Channels that are unlike leave 1/n of their mean energy, and so does one alone among n.
"""
_AS_LOUD = 0.5
"""Part of the loudest channel's energy with which one is as loud: so that the choice stays."""
_NOTHING = 1e-14
"""Mean square below which there is rounding alone: -140 dBFS."""


def to_mono(block: Array) -> tuple[Array, int]:
    """[frames, channels] -> [frames], and which channel that is, from 1; 0 is the mean of all.

    Where channels cancel each other out, as those of a recorder do whose one side is wired the
    wrong way round, it is the first of the loudest. Offsets (DC) count for nothing.
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
