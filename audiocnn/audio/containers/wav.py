"""WAV: its header, the true amount of sound if the header is wrong, and a decoder of 16 bits.

A RIFF header has 32 bits for the number of bytes of sound. Recorders and pipes may write more. The
size then wraps around, is a placeholder, or was never filled in. Source: the WAVE chapter of
Microsoft's and IBM's Multimedia Programming Interface (1991); EBU Tech 3306 (RF64) and ITU-R
BS.2088 (BW64), which store the sizes in 64 bits in a `ds64` chunk.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from audiocnn.audio.containers.frames import (
    BLOCK_FRAMES,
    AudioInfo,
    Block,
    Frames,
    SoundFileFrames,
)
from audiocnn.audio.containers.spliced import Spliced
from audiocnn.audio.containers.tags import AT_THE_END, is_blank
from audiocnn.errors import AudioError
from audiocnn.storage.stores.range_file import read_at

MAGIC = (b"RIFF", b"RF64", b"BW64")
"""First bytes of a WAV file; its size and `WAVE` follow."""

_MOST_CHUNKS = 1_000
_32_BITS = 1 << 32
_IN_64_BITS = _32_BITS - 1
"""A size field with this value means that the size is in the `ds64` chunk."""
_PLACEHOLDERS = ((0x7FFF_E000, 0x8000_0000), (0xFFFF_F000, 0xFFFF_FFFF), (1 << 63, (1 << 64) - 1))
"""Sizes from programs that write to a pipe: SoX 0x7FFFF000 in whole blocks, others the maximum."""
_MOST_JUNK = 512
"""Bytes after the sound that may be anything, for example padding to a full sector."""
_COMPARED_FRAMES = 1 << 16
_ALIKE = 0.5

_PCM = 1
_CODECS = {_PCM: "PCM", 3: "float", 6: "A-law", 7: "mu-law"}
_EXTENSIBLE = 0xFFFE
_METADATA = (
    b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"guan", b"wamd", b"cue ", b"JUNK", b"smpl",
    b"inst", b"fact", b"PAD ", b"FLLR", b"aXML", b"axml", b"_PMX", b"afsp", b"minf", b"elm1",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WavHeader:
    """The format and data chunks of a WAV file, with `data_bytes` of sound from `data_at` on."""

    codec: int
    channels: int
    sample_rate: int
    bits: int
    block_bytes: int
    form: bytes
    """Content of the format chunk."""
    data_at: int
    data_bytes: int

    @property
    def is_pcm16(self) -> bool:
        """Return whether the samples are plain 16-bit integers."""
        plain = (self.codec, self.bits) == (_PCM, 16) and self.channels > 0
        return plain and self.block_bytes == 2 * self.channels

    @property
    def frames(self) -> int:
        """Number of samples in each channel."""
        return self.data_bytes // max(1, self.block_bytes)

    def plain(self) -> bytes:
        """Return a minimal header with the same format, for `data_bytes` of sound."""
        count = len(self.form)
        form = b"fmt " + struct.pack("<I", count) + self.form + b"\0" * (count % 2)
        size = len(form) + 12 + self.data_bytes
        if size < _IN_64_BITS:
            data = b"data" + struct.pack("<I", self.data_bytes)
            return b"RIFF" + struct.pack("<I", size) + b"WAVE" + form + data
        sizes = struct.pack("<IQQQI", 28, size + 36, self.data_bytes, self.frames, 0)
        riff = b"RF64" + struct.pack("<I", _IN_64_BITS) + b"WAVE"
        return riff + b"ds64" + sizes + form + b"data" + struct.pack("<I", _IN_64_BITS)


def read_wav(file: BinaryIO, start: int = 0) -> WavHeader:
    """Return the header of the WAV file that begins at `start`.

    Raises AudioError: unrecognised for an unsupported codec or without a format chunk; truncated
    if there is less sound than the header states, or more data that may be sound.
    """
    length = file.seek(0, io.SEEK_END)
    position = start + 12
    form: bytes | None = None
    size_64: int | None = None
    for _ in range(_MOST_CHUNKS):
        head = read_at(file, position, 8)
        if len(head) < 8:
            break
        name, size = head[:4], struct.unpack_from("<I", head, 4)[0]
        body = position + 8
        if name == b"ds64":
            sizes = file.read(16)
            size_64 = struct.unpack_from("<Q", sizes, 8)[0] if len(sizes) == 16 else None
        if name == b"fmt ":
            form = file.read(min(size, 40))
        if name == b"data":
            if form is None or len(form) < 16:
                break
            size = size_64 if size == _IN_64_BITS and size_64 else size
            return _header(file, form, body, size, length)
        position = body + size + size % 2
    raise AudioError(
        "truncated" if form else "unrecognised", "the WAV header ends before its sound begins"
    )


def _header(file: BinaryIO, form: bytes, body: int, size: int, length: int) -> WavHeader:
    codec, channels, rate, _, block_bytes, bits = struct.unpack_from("<HHIIHH", form)
    if codec == _EXTENSIBLE and len(form) >= 26:
        (codec,) = struct.unpack_from("<H", form, 24)
    if codec not in _CODECS:
        known = ", ".join(_CODECS.values())
        raise AudioError("unrecognised", f"WAV codec 0x{codec:04x}: not {known}")
    stated = WavHeader(
        codec=codec,
        channels=channels,
        sample_rate=rate,
        bits=bits,
        block_bytes=block_bytes,
        form=form,
        data_at=body,
        data_bytes=size,
    )
    return WavHeader(**{**vars(stated), "data_bytes": _present(file, stated, length)})


def _present(file: BinaryIO, stated: WavHeader, length: int) -> int:
    """Return the number of bytes of sound in the file. Raises AudioError truncated."""
    size, present = stated.data_bytes, length - stated.data_at
    if size > present:
        if any(low <= size <= high for low, high in _PLACEHOLDERS):
            return present
        raise AudioError("truncated", f"{present} of {size} bytes of sound are there")
    if read_at(file, stated.data_at + size + size % 2, 4) in MAGIC:
        raise AudioError("truncated", f"another recording follows its {size} bytes of sound")
    wrapped = size + (present - size) // _32_BITS * _32_BITS
    for stop in dict.fromkeys((wrapped, size)):
        if _is_end(file, stated.data_at + stop, length):
            return stop
    if _goes_on(file, stated, length):
        return present
    raise AudioError(
        "truncated",
        f"its header states {size} bytes of sound, and {present} bytes follow: it is unclear "
        "whether all of them are sound",
    )


def _is_end(file: BinaryIO, end: int, length: int) -> bool:
    """Return whether no sound follows `end`: only chunks, a tag, zeros, a few bytes or nothing."""
    if _are_chunks(file, end, length) or length - end <= _MOST_JUNK:
        return True
    return read_at(file, end, 8).startswith(AT_THE_END) or is_blank(file, end)


def _are_chunks(file: BinaryIO, position: int, length: int) -> bool:
    """Return whether only chunks other than sound follow, up to the end; the last may be cut."""
    for _ in range(_MOST_CHUNKS):
        position += read_at(file, position, 1) == b"\0"  # Padding after an odd number of bytes.
        head = read_at(file, position, 8)
        if len(head) < 8:
            return True
        name, size = head[:4], struct.unpack_from("<I", head, 4)[0]
        if name == b"data" or not all(0x20 <= byte < 0x7F for byte in name):
            return False
        position += 8 + size
        if position > length:
            return name in _METADATA
    return False


def _goes_on(file: BinaryIO, wav: WavHeader, length: int) -> bool:
    """Return whether the data after the stated end resembles the sound before it.

    It does if the most significant bytes of the samples (sign and size) have similar histograms.
    """
    if not wav.data_bytes:  # The size was never filled in.
        return True
    width = max(1, wav.bits // 8)
    if not wav.channels or wav.block_bytes != width * wav.channels:
        return False
    end = wav.data_at + wav.data_bytes // wav.block_bytes * wav.block_bytes
    most = _COMPARED_FRAMES * wav.block_bytes
    before = read_at(file, max(wav.data_at, end - most), min(most, end - wav.data_at))
    after = read_at(file, end, min(most, length - end) // wav.block_bytes * wav.block_bytes)
    if not before or not after:
        return False
    shares = [
        np.bincount(np.frombuffer(part, np.uint8)[width - 1 :: width], minlength=256)
        * (width / len(part))
        for part in (before, after)
    ]
    return float(np.minimum(*shares).sum()) > _ALIKE


def open_wav(file: BinaryIO, start: int) -> Frames:
    """Open the WAV that begins at byte `start`. Raises AudioError."""
    wav = read_wav(file, start)
    if wav.is_pcm16:
        return _Pcm16(file, wav)
    end = wav.data_at + wav.data_bytes
    return SoundFileFrames("wav", Spliced(file, wav.plain(), wav.data_at, end), wav.frames)


def is_pcm16(file: BinaryIO, start: int) -> bool:
    """Return whether a WAV has 16-bit samples, which only numpy reads. Raises AudioError."""
    return read_wav(file, start).is_pcm16


class _Pcm16:
    """16-bit WAV, the most common format, read without libsndfile in a tenth of the time.

    The samples are the same. libsndfile calls Python for every 8 kB, which costs more than its
    decoding.
    """

    def __init__(self, file: BinaryIO, wav: WavHeader) -> None:
        self._file, self._wav = file, wav
        self.info = AudioInfo(
            container="wav", sample_rate=wav.sample_rate, channels=wav.channels, frames=wav.frames
        )

    def block_before(self, frame: int) -> int:
        return frame // BLOCK_FRAMES * BLOCK_FRAMES

    def blocks(self, first: int = 0) -> Iterator[Block]:
        wav = self._wav
        for start in range(first, wav.frames, BLOCK_FRAMES):
            count = min(BLOCK_FRAMES, wav.frames - start)
            self._file.seek(wav.data_at + start * wav.block_bytes)
            data = self._file.read(count * wav.block_bytes)
            there = len(data) // wav.block_bytes
            if not there:
                return
            flat = np.frombuffer(data, "<i2", there * wav.channels).astype(np.float32)
            flat *= np.float32(1 / 32_768)
            yield flat.reshape(there, wav.channels)

    def close(self) -> None:
        pass
