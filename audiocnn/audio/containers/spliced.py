"""Parts of a file as one file for libsndfile."""

import io
from typing import BinaryIO

from audiocnn.storage.stores.range_file import RangeFile, read_at


class Spliced(RangeFile):
    """`head`, then the bytes of a file from `start` to `end`, as one file for libsndfile.

    Exceptions cannot pass through libsndfile. An exception while reading is kept in `error`, and
    the file appears to end there.
    """

    def __init__(
        self, file: BinaryIO, head: bytes = b"", start: int = 0, end: int | None = None
    ) -> None:
        length = file.seek(0, io.SEEK_END)
        super().__init__(self._read, len(head) + (length if end is None else end) - start)
        self._file, self._head, self._start = file, head, start
        self.error: Exception | None = None

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position; a position before the beginning becomes 0."""
        try:
            return super().seek(offset, whence)
        except ValueError:
            return super().seek(0)

    def _read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes, at least one before the end of the file; none on an error."""
        if offset < len(self._head):
            return self._head[offset : offset + size]
        try:
            return read_at(self._file, offset - len(self._head) + self._start, size)
        except Exception as error:
            self.error = error
            return b""
