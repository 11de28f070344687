"""A file in which each read is one request. `io.BufferedReader` reads it in larger blocks."""

import io
import os
from collections.abc import Callable
from typing import Any, BinaryIO


class RangeFile(io.RawIOBase):
    """A readable, seekable file of `size` bytes from `read_range(offset, size)`.

    `read_range` may return fewer bytes than requested; none mean the end of the file.
    """

    def __init__(self, read_range: Callable[[int, int], bytes], size: int) -> None:
        self.read_range, self.size, self.at = read_range, size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set and return the position, without a request. Raises ValueError if it is below 0."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence]
        if start + offset < 0:
            raise ValueError(f"position {start + offset} is before the start")
        self.at = start + offset
        return self.at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer by one request and return the number of bytes read."""
        count = max(0, min(len(buffer), self.size - self.at))
        data = self.read_range(self.at, count)
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


def read_at(file: BinaryIO, position: int, size: int) -> bytes:
    """Return up to `size` bytes of a file from a position on."""
    file.seek(position)
    return file.read(size)
