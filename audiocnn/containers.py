"""Which container a recording is in, and what its header says, before libsndfile sees it.

libsndfile opens many more formats than anybody needs, and the rare ones are where it is weak;
and it passes in silence over files that were cut. Both are looked at here first.
"""

import io
import struct
from dataclasses import dataclass
from typing import BinaryIO

from audiocnn.errors import AudioError
from audiocnn.mp3 import Mp3, read_mp3
from audiocnn.rangefile import RangeFile

_MOST_CHUNKS = 1_000
_SIZE_UNKNOWN = 0x7FFFFF00
"""From here on a size says that its writer, to a pipe or beyond 4 GB, did not know it."""
_OGG_TAIL = 1 << 17
"""Bytes in which the last page of an OGG stream must begin: twice the largest page."""

_PCM = 1
_WAV_CODECS = {_PCM: "PCM", 3: "float", 6: "A-law", 7: "mu-law"}
_WAV_EXTENSIBLE = 0xFFFE


@dataclass(frozen=True, kw_only=True)
class WavHeader:
    """The format and data chunks of a WAV file; `data_bytes` are there to be read."""

    codec: int
    channels: int
    sample_rate: int
    bits: int
    block_bytes: int
    data_at: int
    data_bytes: int

    @property
    def is_pcm16(self) -> bool:
        """Whether the samples are plain 16-bit integers."""
        return (self.codec, self.bits) == (_PCM, 16) and self.block_bytes == 2 * self.channels


def sniff(file: BinaryIO) -> str:
    """The container of a recording, from its first bytes: "wav", "flac", "ogg" or "mp3".

    Raises AudioError: empty, unrecognised.
    """
    file.seek(0)
    head = file.read(12)
    if not head:
        raise AudioError("empty", "the file has no bytes")
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"fLaC":
        return "flac"
    if head[:4] == b"OggS":
        return "ogg"
    if head[:3] == b"ID3" or (len(head) > 2 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2):
        return "mp3"
    raise AudioError("unrecognised", f"it begins with {head[:4]!r}: not WAV, FLAC, OGG or MP3")


def read_wav(file: BinaryIO) -> WavHeader:
    """The header of a WAV file.

    Raises AudioError: unrecognised for codecs that are not read, truncated for a data chunk
    that is longer than the file.
    """
    length = file.seek(0, io.SEEK_END)
    position = 12
    form: tuple[int, ...] | None = None
    for _ in range(_MOST_CHUNKS):
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            break
        name, size = head[:4], struct.unpack_from("<I", head, 4)[0]
        body = position + 8
        if name == b"fmt ":
            form = _wav_format(file.read(min(size, 40)))
        if name == b"data":
            if form is None:
                break
            return _wav_header(form, body, size, length - body)
        position = body + size + size % 2
    raise AudioError(
        "truncated" if form else "unrecognised", "the WAV header ends before its sound begins"
    )


def _wav_format(chunk: bytes) -> tuple[int, ...] | None:
    """Codec, channels, rate, bytes a block and bits of a sample, from a format chunk."""
    if len(chunk) < 16:
        return None
    codec, channels, rate, _, block_bytes, bits = struct.unpack_from("<HHIIHH", chunk)
    if codec == _WAV_EXTENSIBLE and len(chunk) >= 26:
        (codec,) = struct.unpack_from("<H", chunk, 24)
    if codec not in _WAV_CODECS:
        known = ", ".join(_WAV_CODECS.values())
        raise AudioError("unrecognised", f"WAV codec 0x{codec:04x}: not {known}")
    return codec, channels, rate, block_bytes, bits


def _wav_header(form: tuple[int, ...], body: int, size: int, present: int) -> WavHeader:
    if present < size < _SIZE_UNKNOWN:
        raise AudioError("truncated", f"{present} of {size} bytes of sound are there")
    codec, channels, rate, block_bytes, bits = form
    return WavHeader(
        codec=codec,
        channels=channels,
        sample_rate=rate,
        bits=bits,
        block_bytes=block_bytes,
        data_at=body,
        data_bytes=min(size, present),
    )


def check_ogg(file: BinaryIO) -> None:
    """Raise AudioError truncated for a last page that is cut, or not marked as the last."""
    length = file.seek(0, io.SEEK_END)
    file.seek(max(0, length - _OGG_TAIL))
    tail = file.read(_OGG_TAIL)
    last = tail.rfind(b"OggS")
    header = tail[last : last + 27] if last >= 0 else b""
    if len(header) == 27:
        segments = tail[last + 27 : last + 27 + header[26]]
        page_end = last + 27 + header[26] + sum(segments)
        if len(segments) == header[26] and page_end <= len(tail) and header[5] & 4:
            return
    raise AudioError("truncated", "the OGG stream ends before its last page")


def check_mp3(file: BinaryIO) -> Mp3:
    """The counted MP3. Raises AudioError: decode without frames, empty, truncated."""
    mp3 = read_mp3(file)
    if mp3 is None:
        raise AudioError("decode", "no MP3 frames follow each other in it")
    if mp3.frames == 0:
        raise AudioError("empty", "the file has no frame of sound")
    if not mp3.whole:
        raise AudioError("truncated", f"the MP3 ends within a frame, after {mp3.frames} whole ones")
    return mp3


class Spliced(RangeFile):
    """`head`, then a file from `rest` on, for libsndfile to read through.

    Exceptions cannot cross libsndfile: what reading raises is kept in `error`, and the file
    seems to end there.
    """

    def __init__(self, file: BinaryIO, head: bytes = b"", rest: int = 0) -> None:
        super().__init__(self._read, len(head) + file.seek(0, io.SEEK_END) - rest)
        self._file, self._head, self._rest = file, head, rest
        self.error: Exception | None = None

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position; at the front where that would lie before it."""
        try:
            return super().seek(offset, whence)
        except ValueError:
            return super().seek(0)

    def _read(self, offset: int, size: int) -> bytes:
        """Some of these bytes, at least one where there are any; none where reading fails."""
        if offset < len(self._head):
            return self._head[offset : offset + size]
        try:
            self._file.seek(offset - len(self._head) + self._rest)
            return self._file.read(size)
        except Exception as error:
            self.error = error
            return b""
