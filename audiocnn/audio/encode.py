"""Samples -> a file that anything plays."""

import io

import numpy as np
import soundfile

from audiocnn.audio.decode import Samples


def wav(samples: Samples, sample_rate: int) -> bytes:
    """Mono samples as 16-bit WAV, which decode to the same where they came from 16 bits.

    What goes beyond full scale, as floats may, is made as quiet as it must be.
    """
    peak = max(1.0, float(np.abs(samples).max()))
    scaled = np.rint(samples * (32_768 / peak)).clip(-32_768, 32_767)
    buffer = io.BytesIO()
    soundfile.write(buffer, scaled.astype(np.int16), sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
