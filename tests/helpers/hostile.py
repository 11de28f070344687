"""Damaged recordings that must be refused, and odd ones that must be read, made from bytes."""

import gzip
import io
import struct
import zipfile

import numpy as np
import soundfile

from audiocnn.audio.encode import encode


def wav(
    body: bytes = b"\0\0" * 8_000,
    *,
    rate: int = 16_000,
    channels: int = 1,
    codec: int = 1,
    bits: int = 16,
    riff: int | None = None,
    data: int | None = None,
) -> bytes:
    """The bytes of a WAV file. Its header has the given values, even if they are false."""
    align = channels * bits // 8
    fmt = struct.pack(
        "<HHIIHH", codec, channels, rate, rate * align & 0xFFFFFFFF, align & 0xFFFF, bits
    )
    size = len(body) if data is None else data
    chunks = b"fmt " + struct.pack("<I", 16) + fmt + b"data" + struct.pack("<I", size) + body
    total = len(chunks) + 4 if riff is None else riff
    return b"RIFF" + struct.pack("<I", total) + b"WAVE" + chunks


def floats(*values: float) -> bytes:
    samples = np.zeros(8_000, np.float32)
    samples[100 : 100 + len(values)] = values
    return wav(samples.tobytes(), codec=3, bits=32)


def sound(container: str, seconds: float = 2.0, channels: int = 1) -> bytes:
    """An encoded recording of noise."""
    samples = np.random.default_rng(0).standard_normal((round(seconds * 16_000), channels))
    return encode(0.1 * samples, 16_000, container)


def pcm(seconds: float = 2.0) -> bytes:
    """The samples of `sound("wav")`, without their header."""
    return sound("wav", seconds)[44:]


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("dog.wav", wav())
    return buffer.getvalue()


def doubles(value: float) -> bytes:
    samples = np.zeros(8_000)
    samples[100] = value
    return wav(samples.tobytes(), codec=3, bits=64)


def written(container: str, subtype: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(8_000), 16_000, format=container, subtype=subtype)
    return buffer.getvalue()


def rf64(
    body: bytes, *, magic: bytes = b"RF64", data: int | None = None, rate: int = 16_000
) -> bytes:
    """The bytes of a WAV file with sizes of 64 bits."""
    size = len(body) if data is None else data
    sizes = struct.pack("<IQQQI", 28, size + 72, size, size // 2, 0)
    fmt = struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
    head = magic + b"\xff\xff\xff\xffWAVEds64" + sizes + b"fmt " + fmt
    return head + b"data\xff\xff\xff\xff" + body


def random_bytes(count: int) -> bytes:
    return np.random.default_rng(2).bytes(count)


def silence(seconds: int, container: str) -> bytes:
    """Silence, encoded in pieces: libsndfile's Vorbis encoder crashes on an hour at once."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", 4_000, 1, format=container) as file:
        for _ in range(seconds // 60):
            file.write(np.zeros(60 * 4_000, np.int16))
    return buffer.getvalue()


def flac_that_says(frames: int) -> bytes:
    """A FLAC of two seconds whose header states this number of frames (36 bits; 0: unknown)."""
    data = bytearray(sound("flac"))
    data[21] = data[21] & 0xF0 | frames >> 32
    data[22:26] = struct.pack(">I", frames & 0xFFFFFFFF)
    return bytes(data)


def ogg_that_says(granule: int) -> bytes:
    """A Vorbis stream whose last page states a false position, with the checksum for it."""
    data = bytearray(sound("ogg"))
    last = data.rfind(b"OggS")
    data[last + 6 : last + 14] = struct.pack("<q", granule)
    data[last + 22 : last + 26] = bytes(4)
    checksum = 0
    for byte in data[last:]:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = checksum << 1 ^ (0x04C11DB7 if checksum & 0x80000000 else 0)
            checksum &= 0xFFFFFFFF
    data[last + 22 : last + 26] = struct.pack("<I", checksum)
    return bytes(data)


ID3 = b"ID3\x04\0\0\0\0\x02\0" + b"\0" * 256
ID3V1 = b"TAG" + b"\0" * 125


HOSTILE: dict[str, tuple[bytes, str]] = {
    "no bytes": (b"", "empty"),
    "random bytes": (np.random.default_rng(1).bytes(4_000), "unrecognised"),
    "png": (b"\x89PNG\r\n\x1a\n" + b"\0" * 500, "unrecognised"),
    "html": (b"<!doctype html><p>not found</p>", "unrecognised"),
    "zip": (zipped(), "unrecognised"),
    "gzip": (gzip.compress(wav()), "unrecognised"),
    "jpeg": (b"\xff\xd8\xff\xe0\0\x10JFIF\0" + b"\0" * 500, "unrecognised"),
    "big-endian wav": (b"RIFX" + wav()[4:], "unrecognised"),
    "w64": (written("W64", "PCM_16"), "unrecognised"),
    "au": (written("AU", "PCM_16"), "unrecognised"),
    "text": (b"Battery changed at noon.\n", "unrecognised"),
    "headerless pcm": (b"\1\0" * 4_000, "unrecognised"),
    "matlab": (b"MATLAB 5.0 MAT-file" + b"\0" * 500, "unrecognised"),
    "aiff": (b"FORM\0\0\0\x20AIFFCOMM" + b"\0" * 50, "unrecognised"),
    "mp4": (b"\0\0\0\x20ftypisom" + b"\0" * 500, "unrecognised"),
    "playlist": (b"#EXTM3U\nhttp://169.254.169.254/\n", "unrecognised"),
    "ima adpcm wav": (wav(codec=0x11, bits=4), "unrecognised"),
    "ms adpcm wav": (wav(codec=2, bits=4), "unrecognised"),
    "ima adpcm wav of libsndfile": (written("WAV", "IMA_ADPCM"), "unrecognised"),
    "gsm wav": (wav(codec=0x31), "unrecognised"),
    "20-byte riff": (wav()[:20], "unrecognised"),
    "wav without data": (wav()[:36], "truncated"),
    "half a wav": (sound("wav")[:20_000], "truncated"),
    "a wav without its last byte": (sound("wav")[:-1], "truncated"),
    "random bytes behind a wav": (sound("wav") + random_bytes(5_000), "truncated"),
    "a text behind a wav": (sound("wav") + 200 * b"Battery changed at noon.\n", "truncated"),
    "a wav of 3 GB cut short": (wav(pcm(), data=3 << 30), "truncated"),
    "a wav of 24 bits cut short": (written("WAV", "PCM_24")[:-3_000], "truncated"),
    "half an rf64": (rf64(pcm()[:10_000], data=64_000), "truncated"),
    "a bw64 cut short": (rf64(pcm()[:-1], magic=b"BW64", data=64_000), "truncated"),
    "id3 before half a wav": (ID3 + sound("wav")[:20_000], "truncated"),
    "random bytes between two mp3s": (
        sound("mp3") + random_bytes(5_000) + sound("mp3"),
        "truncated",
    ),
    "oggs of two rates": (sound("ogg") + encode(np.zeros(8_000), 8_000, "ogg"), "decode"),
    "an ogg behind whose end half a one follows": (
        sound("ogg") + sound("ogg")[:5_000],
        "truncated",
    ),
    "two flacs": (2 * sound("flac"), "truncated"),
    "two joined wavs": (2 * sound("wav"), "truncated"),
    "data before its format": (b"RIFF\x20\0\0\0WAVEdata\4\0\0\0\1\0\1\0", "unrecognised"),
    "a format chunk of 4 GB": (wav()[:16] + b"\xff\xff\xff\xff" + wav()[20:], "truncated"),
    "half an mp3": (sound("mp3")[: len(sound("mp3")) // 2], "truncated"),
    "half a flac": (sound("flac")[:20_000], "truncated|decode"),
    "half an ogg": (sound("ogg")[:2_000], "truncated"),
    "ogg without its last page": (sound("ogg")[: sound("ogg").rfind(b"OggS")], "truncated"),
    "ogg magic alone": (b"OggS" + b"\0" * 100, "truncated"),
    "flac magic alone": (b"fLaC" + b"\0" * 100, "decode"),
    "id3 that claims 256 MB": (b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + b"\0" * 500, "decode|empty"),
    "id3 that claims 256 MB before an mp3": (
        b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + sound("mp3"),
        "decode",
    ),
    "id3 that claims 256 MB between two mp3s": (
        sound("mp3") + b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + sound("mp3"),
        "truncated",
    ),
    "id3 ten thousand times": (10_000 * b"ID3\x04\0\0\0\0\0\0" + sound("mp3"), "unrecognised"),
    "mp3 sync and noise": (b"\xff\xfb" + b"\x13" * 500, "decode|empty"),
    "wav with no samples": (wav(b""), "empty"),
    "one sample": (wav(b"\0\1"), "too_short"),
    "no channels": (wav(channels=0), "decode|channels"),
    "1024 channels": (wav(b"\0" * 2_048 * 100, channels=1_024), "channels|decode"),
    "32 channels": (wav(b"\0" * 64 * 8_000, channels=32), "channels"),
    "0 Hz": (wav(rate=0), "decode|sample_rate"),
    "1 Hz": (wav(rate=1), "sample_rate"),
    "10 MHz": (wav(rate=10_000_000), "sample_rate"),
    "NaN": (floats(np.nan), "non_finite"),
    "Inf": (floats(np.inf), "non_finite"),
    "-Inf": (floats(-np.inf), "non_finite"),
    "1e38": (floats(1e38), "non_finite"),
    "NaN in 64 bits": (doubles(np.nan), "non_finite"),
    "1e300 in 64 bits": (doubles(1e300), "non_finite"),
    "65535 channels": (wav(b"\0" * 131_070 * 10, channels=65_535), "channels|decode"),
    "a flac that says it has 68 billion frames": (flac_that_says(2**36 - 1), "too_long"),
    "a flac that says it is longer": (flac_that_says(64_000), "truncated"),
    "an ogg that says it is longer": (ogg_that_says(16_000 * 100), "truncated"),
    "an ogg that says it has years": (ogg_that_says(2**50), "too_long|truncated"),
    "a vorbis of an hour of silence": (
        silence(3_600, "OGG"),
        "too_long",
    ),
    "a flac of two hours of silence": (
        silence(2 * 3_600, "FLAC"),
        "too_long",
    ),
}
"""Bytes and reasons by name. With 600 s allowed, each is refused for one of its reasons."""


TOLERATED = {
    "a flac that does not say its length": flac_that_says(0),
    "one second of silence": wav(b"\0\0" * 16_000),
    "id3 before an mp3": ID3 + sound("mp3"),
    "id3 before a wav": ID3 + sound("wav"),
    "id3 twice before a flac": ID3 + ID3 + sound("flac"),
    "id3 before an ogg": ID3 + sound("ogg"),
    "an old tag behind a flac": sound("flac") + ID3V1,
    "zeros behind a flac": sound("flac") + bytes(5_000),
    "zeros behind a wav": sound("wav") + bytes(5_000),
    "an odd number of bytes, and a chunk behind them": wav(b"\1" * 8_001, bits=8)
    + b"LIST\x04\0\0\0info",
    "half a chunk behind a wav": sound("wav") + b"LIST\xff\xff\0\0info",
    "riff size of 2 GB": wav(riff=0x7FFFFFFF),
    "riff size 0": wav(riff=0),
    "data size unknown to a pipe": wav(data=0xFFFFFFFF, riff=0xFFFFFFFF),
    "data size unknown to SoX": wav(data=0x7FFFF000, riff=0x7FFFF024),
    "data size unknown to SoX, in blocks of 6 bytes": wav(
        b"\0\0\1" * 16_000, channels=2, bits=24, data=0x7FFFF000 // 6 * 6
    ),
    "an rf64 whose size is unknown": rf64(pcm(), data=0),
    "bytes after the data": wav() + b"LIST\x04\0\0\0info",
    "denormals": floats(1e-40, -1e-42),
    "8 channels at 192 kHz": wav(b"\0\1" * 8 * 19_200, channels=8, rate=192_000),
    "0.4 s at 8 kHz": wav(b"\1\0" * 3_200, rate=8_000),
}
