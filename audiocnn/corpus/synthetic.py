"""The corpus that ships with the project: ten classes of generated sounds, seeded.

The classes differ in time and in frequency. Within a class, pitch, tempo, level and background
noise vary, so that a model has something to learn while the labels are certain.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from audiocnn import storage
from audiocnn.audio.decode import Samples
from audiocnn.audio.encode import encode

Array = npt.NDArray[np.float64]
Sound = Callable[[np.random.Generator, Array, int], Array]
"""(random generator, times [samples] in seconds, rate in Hz) -> [samples], at any level."""
File = tuple[str, bytes, str | None]
"""Path and content of a file, and the class of its sound; None if the file is broken."""


def _rising_chirp(rng: np.random.Generator, t: Array, rate: int) -> Array:
    return _chirps(rng, t, upwards=True)


def _falling_chirp(rng: np.random.Generator, t: Array, rate: int) -> Array:
    return _chirps(rng, t, upwards=False)


def _chirps(rng: np.random.Generator, t: Array, *, upwards: bool) -> Array:
    """Repeated sweeps over one to two octaves."""
    low, octaves, period = rng.uniform(300, 1200), rng.uniform(1, 2), rng.uniform(0.3, 0.8)
    phase = (t / period + rng.uniform()) % 1
    sweep = phase if upwards else 1 - phase
    frequency = low * 2 ** (octaves * sweep)
    return _tone(t, frequency) * np.sin(np.pi * phase) ** 0.5


def _click_train(rng: np.random.Generator, t: Array, rate: int) -> Array:
    """Short, regular, broadband clicks."""
    since = (t + rng.uniform()) % (1 / rng.uniform(3, 12))
    return rng.standard_normal(len(t)) * np.exp(-since / 0.002)


def _thuds(rng: np.random.Generator, t: Array, rate: int) -> Array:
    """Slow, low, damped knocks."""
    since = (t + rng.uniform()) % rng.uniform(0.4, 0.9)
    return np.sin(2 * np.pi * rng.uniform(60, 140) * since) * np.exp(-since / 0.06)


def _steady_hiss(rng: np.random.Generator, t: Array, rate: int) -> Array:
    """Continuous noise above 1.5 to 3 kHz."""
    return _noise_band(rng, len(t), rate, rng.uniform(1500, 3000), 0.48 * rate)


def _noise_bursts(rng: np.random.Generator, t: Array, rate: int) -> Array:
    """Noise switched on and off, a few times a second."""
    noise = _noise_band(rng, len(t), rate, rng.uniform(200, 800), rng.uniform(2500, 6000))
    return noise * ((t * rng.uniform(1.5, 4) + rng.uniform()) % 1 < rng.uniform(0.3, 0.5))


def _tremolo_tone(rng: np.random.Generator, t: Array, rate: int) -> Array:
    """One pitch with varying loudness (AM)."""
    depth = 0.5 + 0.5 * np.sin(2 * np.pi * (rng.uniform(4, 9) * t + rng.uniform()))
    return _tone(t, np.full_like(t, rng.uniform(350, 1500))) * depth


def _siren(rng: np.random.Generator, t: Array, rate: int) -> Array:
    """One pitch that swings up and down (FM)."""
    swing = np.sin(2 * np.pi * (rng.uniform(0.6, 1.6) * t + rng.uniform()))
    return _tone(t, rng.uniform(500, 1200) * 2 ** (rng.uniform(0.3, 0.6) * swing))


def _buzz(rng: np.random.Generator, t: Array, rate: int) -> Array:
    """A low, continuous pitch with all its harmonics."""
    pitch = rng.uniform(80, 220)
    return 2 * ((pitch * t + rng.uniform()) % 1) - 1


def _bell(rng: np.random.Generator, t: Array, rate: int) -> Array:
    """Inharmonic partials that are struck and ring for long."""
    pitch, since = rng.uniform(400, 900), (t + rng.uniform()) % rng.uniform(0.9, 1.6)
    ratios, decays = np.array([1, 2.0, 2.76, 4.1, 5.4]), np.array([0.7, 0.5, 0.4, 0.25, 0.15])
    partials = np.sin(2 * np.pi * pitch * ratios[:, None] * since)
    ringing: Array = (partials * np.exp(-since / decays[:, None])).sum(axis=0)
    return ringing


SOUNDS: dict[str, Sound] = {
    "bell": _bell,
    "buzz": _buzz,
    "click train": _click_train,
    "falling chirp": _falling_chirp,
    "noise bursts": _noise_bursts,
    "rising chirp": _rising_chirp,
    "siren": _siren,
    "steady hiss": _steady_hiss,
    "thuds": _thuds,
    "tremolo tone": _tremolo_tone,
}


def _tone(t: Array, frequency: Array) -> Array:
    """Return a sine [samples] with a changing frequency, [samples] in Hz."""
    tone: Array = np.sin(2 * np.pi * np.cumsum(frequency) * (t[1] - t[0]))
    return tone


def _noise_band(
    rng: np.random.Generator, count: int, rate: int, low_hz: float, high_hz: float
) -> Array:
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency = np.fft.rfftfreq(count, 1 / rate)
    spectrum[(frequency < low_hz) | (frequency > high_hz)] = 0
    return np.fft.irfft(spectrum, count)


def sound(name: str, seed: int | list[int], duration_s: float = 2.0, rate: int = 22_050) -> Samples:
    """Return one generated sound of a class of `SOUNDS`: [duration_s * rate] float32 within ±1.

    The level varies by 20 dB. The background, coloured noise, is 10 to 30 dB below the sound.
    """
    rng = np.random.default_rng(seed)
    t = np.arange(round(duration_s * rate)) / rate
    clean = SOUNDS[name](rng, t, rate)
    clean = clean / (np.sqrt(np.mean(clean**2)) + 1e-9)
    tilt = _noise_band(rng, len(t), rate, 20, rng.uniform(500, rate / 2))
    noise = tilt / np.sqrt(np.mean(tilt**2)) * 10 ** (-rng.uniform(10, 30) / 20)
    mixed = (clean + noise) / np.abs(clean + noise).max()
    quieter: Samples = (mixed * 10 ** (-rng.uniform(1, 21) / 20)).astype(np.float32)
    return quieter


def corpus_files(clips_per_class: int = 40, seed: int = 0) -> Iterator[File]:
    """Yield the corpus: one folder for each class, WAV files named `{fold}-{source}-{take}.wav`.

    There are five folds. The two takes of a source share pitch, tempo and fold.
    """
    for index, name in enumerate(SOUNDS):
        for clip in range(clips_per_class):
            source, take = divmod(clip, 2)
            samples = sound(name, [seed, index, source], duration_s=2.0 + 0.4 * take)
            file = f"{source % 5 + 1}-{index * 1000 + source}-{'AB'[take]}.wav"
            yield f"{name}/{file}", encode(samples, 22_050), name


def write_corpus(uri: str, clips_per_class: int = 40, seed: int = 0) -> str:
    """Write the corpus below a URI, and return this URI. Raises StorageError."""
    for path, data, _ in corpus_files(clips_per_class, seed):
        storage.write_bytes(storage.join(uri, path), data)
    return uri


def bucket_files(recordings: int = 60, seed: int = 1) -> Iterator[File]:
    """Yield unlabelled recordings like those in a bucket, and three broken files.

    The recordings are WAV, FLAC, OGG and MP3, mono and stereo, at several rates, in a folder for
    each day. The broken files come last: one cut off, one empty, and one text file named `.wav`.
    """
    names, rates = list(SOUNDS), (16_000, 22_050, 44_100, 48_000)
    containers = ("wav", "flac", "ogg", "mp3")
    for index in range(recordings):
        name, rate = names[index % len(names)], rates[index // 4 % 4]
        samples = sound(name, [seed, index], duration_s=(2.0, 3.0, 5.5)[index % 3], rate=rate)
        if index % 5 == 0:
            samples = np.stack([samples, 0.5 * samples], axis=1)
        container = containers[index % 4]
        path = f"2026-06-{index % 7 + 1:02d}/recorder-{index:04d}.{container}"
        yield path, encode(samples, rate, container), name
    cut = encode(sound("bell", [seed, recordings]), 22_050)
    yield "2026-06-08/cut-off.wav", cut[: len(cut) // 2], None
    yield "2026-06-08/empty.wav", b"", None
    yield "2026-06-08/notes.wav", b"Battery changed at noon.\n", None
