"""Parquet files with a checksum of each page, and an error of one line for damaged files."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from audiocnn.errors import FormatError


def writer(target: Any, columns: pa.Schema, **options: Any) -> pq.ParquetWriter:
    """Return a writer to a path or an open file; `options` are those of pyarrow."""
    return pq.ParquetWriter(
        target, columns, compression="zstd", write_page_checksum=True, **options
    )


def footer(data: bytes) -> bytes:
    """Return the footer of a Parquet file's content, which must have been opened without error."""
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
    """Open a Parquet file for the block, then close it; pages that have a checksum are checked.

    Raises FormatError if the file is not Parquet or is damaged. The message names `what` the file
    should be and how to repair it (`mend`).
    """
    try:
        with file:
            yield pq.ParquetFile(file, metadata=metadata, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:  # an error of the disk
            raise
        reason = " ".join(str(error).split())
        then = mend and f"; {mend}"
        raise FormatError(f"{uri}: not {what}, or a damaged one ({reason}){then}") from error
