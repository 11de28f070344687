"""The containers of recordings that are read: each with its names, its first bytes and its decoder.

libsndfile opens many more formats than audiocnn needs, and its code for rare formats is weak. It
also accepts truncated files without an error. Both cases are rejected here first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from audiocnn.audio.containers.flac import FlacFrames
from audiocnn.audio.containers.frames import Frames
from audiocnn.audio.containers.mp3 import LEEWAY_FRAMES, is_frame, open_mp3
from audiocnn.audio.containers.ogg import open_ogg
from audiocnn.audio.containers.tags import MOST_TAGS, behind_id3
from audiocnn.audio.containers.wav import MAGIC, is_pcm16, open_wav
from audiocnn.errors import AudioError
from audiocnn.storage.stores.range_file import read_at

_HEAD = 12
"""Bytes by which a container is recognised."""


@dataclass(frozen=True, kw_only=True)
class Container:
    """A kind of file that holds a recording."""

    name: str
    """Name in `AudioInfo.container`; in upper case in messages."""
    suffixes: tuple[str, ...]
    """Suffixes of file names, in lower case."""
    begins: Callable[[bytes], bool]
    """Whether a file begins so, given its first bytes without ID3 tags."""
    open: Callable[[BinaryIO, int], Frames]
    """Open the recording that begins at a byte of a seekable file. Raises AudioError."""
    is_plain: Callable[[BinaryIO, int], bool] = lambda file, start: False
    """Whether numpy alone decodes this recording, no native code. Raises AudioError."""
    leeway_frames: int = 0
    """Frames that may be missing at the end of an undamaged recording."""


CONTAINERS = (
    Container(
        name="wav",
        suffixes=(".wav",),
        begins=lambda head: head[:4] in MAGIC and head[8:] == b"WAVE",
        open=open_wav,
        is_plain=is_pcm16,
    ),
    Container(
        name="flac",
        suffixes=(".flac",),
        begins=lambda head: head[:4] == b"fLaC",
        open=FlacFrames,
    ),
    Container(
        name="ogg",
        suffixes=(".ogg", ".oga", ".opus"),
        begins=lambda head: head[:4] == b"OggS",
        open=open_ogg,
    ),
    Container(
        name="mp3",
        suffixes=(".mp3",),
        begins=is_frame,
        open=open_mp3,
        leeway_frames=LEEWAY_FRAMES,
    ),
)
"""All containers. A file with ID3 tags that begins like none of them is opened as the last one."""
_TITLES = [container.name.upper() for container in CONTAINERS]
TITLES = f"{', '.join(_TITLES[:-1])} or {_TITLES[-1]}"
"""The containers in words, for messages."""
AUDIO_SUFFIXES = tuple(suffix for container in CONTAINERS for suffix in container.suffixes)
"""Suffixes of file names that count as recordings when a folder or a bucket is listed."""


def find_container(file: BinaryIO) -> tuple[Container, int]:
    """Return the container of a recording, and its first byte behind any ID3 tags.

    Raises AudioError: empty, unrecognised.
    """
    begin = read_at(file, 0, 4)
    if not begin:
        raise AudioError("empty", "the file has no bytes")
    start = behind_id3(file, 0)
    head = read_at(file, start, _HEAD)
    if head[:3] == b"ID3":
        raise AudioError("unrecognised", f"it begins with more than {MOST_TAGS} ID3 tags")
    for container in CONTAINERS:
        if container.begins(head):
            return container, start
    if start:
        return CONTAINERS[-1], start
    raise AudioError("unrecognised", f"it begins with {begin!r}: not {TITLES}")
