"""Parquet files with a checksum of each page, and one line on those that are damaged."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from audiocnn.errors import FormatError


def writer(target: Any, columns: pa.Schema, **options: Any) -> pq.ParquetWriter:
    """A writer to a path, or to a file that is open; `options` are pyarrow's."""
    return pq.ParquetWriter(
        target, columns, compression="zstd", write_page_checksum=True, **options
    )


def footer(data: bytes) -> bytes:
    """What a Parquet file that was opened says of itself behind its pages."""
    size = int.from_bytes(data[-8:-4], "little")
    return data[-8 - size :]


@contextmanager
def opened(
    uri: str,
    file: BinaryIO | pa.BufferReader,
    what: str = "a Parquet file",
    *,
    metadata: pq.FileMetaData | None = None,
    mend: str = "",
) -> Iterator[pq.ParquetFile]:
    """A file to read within the block, which closes it; pages that have a checksum are checked.

    Raises FormatError where it is not `what` it should be, or is damaged; that says the `mend`.
    """
    try:
        with file:
            yield pq.ParquetFile(file, metadata=metadata, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:  # the disk's
            raise
        reason = " ".join(str(error).split())
        then = mend and f"; {mend}"
        raise FormatError(f"{uri}: not {what}, or a damaged one ({reason}){then}") from error
