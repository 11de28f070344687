"""Encode samples as a file that any player can open."""

import io

import numpy as np
import soundfile

from audiocnn.audio.decode import Samples

_BLOCK = 1 << 16
"""Samples that are written at once: libsndfile's encoder of OGG puts a whole block on its stack."""


def encode(
    samples: np.ndarray, rate: int, container: str = "wav", codec: str | None = None
) -> bytes:
    """Encode samples, [frames] or [frames, channels], as a WAV, FLAC, OGG or MP3 file.

    `codec` is a subtype of libsndfile; None: the container's default.
    """
    buffer = io.BytesIO()
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    with soundfile.SoundFile(
        buffer, "w", rate, channels, format=container.upper(), subtype=codec
    ) as file:
        for start in range(0, len(samples), _BLOCK):
            file.write(samples[start : start + _BLOCK])
    return buffer.getvalue()


def wav(samples: Samples, sample_rate: int) -> bytes:
    """Return mono samples, [samples] float32 in full scale ±1, as a 16-bit WAV file.

    Samples that came from 16 bits decode to the same values. If a sample exceeds full scale, as
    floats may, all samples are scaled down to fit.
    """
    peak = max(1.0, float(np.abs(samples).max()))
    scaled = np.rint(samples * (32_768 / peak)).clip(-32_768, 32_767)
    return encode(scaled.astype(np.int16), sample_rate, codec="PCM_16")
