"""A file whose every read is a request: `io.BufferedReader` makes blocks of them."""

import io
import os
from collections.abc import Callable
from typing import Any, BinaryIO


class RangeFile(io.RawIOBase):
    """`size` bytes to read and to seek in, given by `read_range(offset, size)`, or some of them."""

    def __init__(self, read_range: Callable[[int, int], bytes], size: int) -> None:
        self.read_range, self.size, self.at = read_range, size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position; no request is made."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence]
        if start + offset < 0:
            raise ValueError(f"no position {start + offset}")
        self.at = start + offset
        return self.at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer by one request; returns the bytes that there were."""
        count = max(0, min(len(buffer), self.size - self.at))
        data = self.read_range(self.at, count)
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


def read_at(file: BinaryIO, position: int, size: int) -> bytes:
    """Up to `size` bytes of a file from a position on."""
    file.seek(position)
    return file.read(size)
