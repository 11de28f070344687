"""Encode samples as a file that any player can open."""

import io

import numpy as np
import soundfile

from audiocnn.audio.decode import Samples


def wav(samples: Samples, sample_rate: int) -> bytes:
    """Return mono samples, [samples] float32 in full scale ±1, as a 16-bit WAV file.

    Samples that came from 16 bits decode to the same values. If a sample exceeds full scale, as
    floats may, all samples are scaled down to fit.
    """
    peak = max(1.0, float(np.abs(samples).max()))
    scaled = np.rint(samples * (32_768 / peak)).clip(-32_768, 32_767)
    buffer = io.BytesIO()
    soundfile.write(buffer, scaled.astype(np.int16), sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
