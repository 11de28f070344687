"""Cut mono samples into windows of equal length."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from math import log10

import numpy as np
import numpy.typing as npt

from audiocnn.config import WindowConfig

Samples = npt.NDArray[np.float32]

_LEAST_DBFS = -200.0


@dataclass(frozen=True, kw_only=True)
class Window:
    """One window of a recording.

    `samples` is [window_samples] float32. The first `duration_s` seconds are recorded; the rest
    is padding.
    """

    start_s: float
    duration_s: float
    samples: Samples
    level_dbfs: float
    """Level of the recorded part, see `level_dbfs`."""
    channel: int = 0
    """Channel, from 1, used alone in the window or in part of it; 0 is the mean of all."""


def level_dbfs(samples: Samples) -> float:
    """Return the RMS level of [samples], in decibels relative to full scale ±1; at least -200."""
    power = float(samples @ samples) / max(1, len(samples))
    return max(_LEAST_DBFS, 10 * log10(power)) if power > 0 else _LEAST_DBFS


class Splitter:
    """Cut consecutive blocks of mono samples, each [samples], into windows as the blocks arrive.

    A window starts every `hop_s`.
    """

    def __init__(self, config: WindowConfig) -> None:
        self._config = config
        self._pending = np.zeros(0, np.float32)
        self._start = 0

    def push(self, block: Samples) -> Iterator[Window]:
        """Add a block, and return an iterator over the windows that are full now."""
        self._pending = np.concatenate([self._pending, block]) if len(self._pending) else block
        return self._full()

    def _full(self) -> Iterator[Window]:
        size, hop = self._config.window_samples, self._config.hop_samples
        while len(self._pending) >= size:
            window = _window(self._start, self._pending[:size], size, self._config)
            self._start, self._pending = self._start + hop, self._pending[hop:]
            yield window

    def finish(self) -> Iterator[Window]:
        """Yield the last window, padded as `config.pad` says.

        It is left out if it adds less than `min_tail_s` of new sound and is not the only window.
        """
        if _is_window(self._start, len(self._pending), self._config):
            yield _window(self._start, self._pending, self._config.window_samples, self._config)


def cut(blocks: Iterable[Samples], config: WindowConfig) -> Iterator[Window]:
    """Cut consecutive blocks of mono samples, each [samples], into windows: see `Splitter`."""
    splitter = Splitter(config)
    for block in blocks:
        yield from splitter.push(block)
    yield from splitter.finish()


def batched(found: Iterator[Window], size: int) -> Iterator[list[Window]]:
    """Yield lists of `size` consecutive windows; only one list is in memory."""
    while group := list(islice(found, size)):
        yield group


def count_windows(duration_s: float, config: WindowConfig) -> int:
    """Return the number of windows that `decode.windows` yields for a duration in seconds."""
    samples = round(duration_s * config.sample_rate)
    beyond = samples - config.window_samples
    whole = 0 if beyond < 0 else 1 + beyond // config.hop_samples
    start = whole * config.hop_samples
    return whole + _is_window(start, samples - start, config)


def _is_window(start: int, left: int, config: WindowConfig) -> bool:
    """Return whether the last `left` samples, fewer than a full window, still make a window."""
    # The samples include an overlap with the previous window.
    fresh = left - (config.window_samples - config.hop_samples if start else 0)
    return start == 0 or (fresh > 0 and fresh >= config.min_tail_s * config.sample_rate)


def _window(start: int, samples: Samples, size: int, config: WindowConfig) -> Window:
    count, level = len(samples), level_dbfs(samples)
    if count < size and config.pad == "repeat":
        samples = np.resize(samples, size)
    elif count < size:
        samples = np.pad(samples, (0, size - count))
    return Window(
        start_s=start / config.sample_rate,
        duration_s=count / config.sample_rate,
        samples=samples,
        level_dbfs=level,
    )
