"""A folder of labels: its note, its versions, its parts and their sums.

`labels.json`, the note, holds the bundle and options that the labels are made with, and the result
of the listing; `summary.json` is written last. Labels by another bundle are another version, in a
folder `version-2` and so on with the same layout.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

import pyarrow as pa

from audiocnn import storage
from audiocnn.config import AudioLimits, differences, from_json
from audiocnn.errors import ConfigError
from audiocnn.labels.part import FORMAT, LabelLedger, is_part, read_ledger, reading, schema
from audiocnn.storage import listing, open_binary, output_folder, parquet, prefetch
from audiocnn.storage.failures import FAILURES
from audiocnn.storage.json_note import Note
from audiocnn.storage.listing import StoredFile
from audiocnn.storage.output_folder import Notes, Output

NOTE = "labels.json"
SUMMARY = "summary.json"
_FIRST = "audiocnn.labels/1"
_PARTS = "parts/part-*.parquet"
_VERSION = re.compile(r"version-([2-9]|[1-9]\d{1,8})")
_PART = re.compile(r"part-(\w+)-(\d+)\.parquet$")
_OTHER_OPTIONS = ("bundle", "features", "bucket", "hop_s", "top_k", "embeddings")
"""Members of `made_with` that are not limits of recordings (`AudioLimits`)."""
_FOOTERS_AHEAD, _FILES_AHEAD = 16, 8
_ROWS = 4_096
"""Most rows in a batch: 8 MB of embeddings with 512 numbers, as float32."""


def find_version(
    to: str, made_with: dict[str, Any], *, new_version: bool
) -> tuple[str, dict[str, Any] | None]:
    """Return the folder, at or below `to`, for labels made with these options, and their note.

    The note is None if there are no such labels yet. Raises ConfigError if only labels with other
    options exist and `new_version` is false, or for labels of an earlier format.
    """
    versions = _versions(to)
    others = []
    for folder in versions.values():
        if storage.exists(storage.join(folder, NOTE)):
            note = read_note(folder)
            if note["made_with"] == made_with:
                return folder, note
            others.append(note["made_with"])
    if others and not new_version:
        raise ConfigError(
            f"--to {to}: labels with {differences(others[-1], made_with)} are there; pass "
            "--new-version to keep them and label again, or name another folder"
        )
    if others:
        return storage.join(to, f"version-{max(versions) + 1}"), None
    if storage.exists(storage.join(to, SUMMARY)):
        raise ConfigError(
            f"--to {to}: labels of an earlier format are there; name another folder, or pass "
            "--overwrite"
        )
    return to, None


def _versions(to: str) -> dict[int, str]:
    """Return the existing folders of versions by number; the first is `to` itself."""
    matches = map(_VERSION.fullmatch, listing.folders(to))
    found = {int(match[1]): storage.join(to, match[0]) for match in matches if match}
    return {1: to} | dict(sorted(found.items()))


def read_note(uri: str) -> Note:
    """Read `labels.json`. Raises StorageError if it is missing, FormatError for another format."""
    note, summary = storage.join(uri, NOTE), storage.join(uri, SUMMARY)
    if not storage.exists(note) and storage.exists(summary):
        storage.read_format(summary, FORMAT, "labels")  # the first format has no note
    return storage.read_format(note, FORMAT, "labels")


def limits_of(note: Note) -> AudioLimits:
    """Return the limits of recordings in the note of labels.

    Raises FormatError if the labels are made with an option that this version does not know.
    """
    return from_json(AudioLimits, note["made_with"].without(_OTHER_OPTIONS))


def require_apart(bucket: str, to: str) -> None:
    """Raise ConfigError if `to` is the bucket or contains it: recordings would count as labels."""
    if storage.is_within(storage.real(bucket), storage.real(to)):
        raise ConfigError(
            f"--to {storage.absolute(to)}: it is the bucket, or a folder above it, so the "
            "recordings would count as labels; name a folder beside the recordings, or one below "
            "the bucket"
        )


def iter_bucket(bucket: str, to: str) -> Iterator[StoredFile]:
    """Yield the files of a bucket, except those that are, also by a link, below the labels' folder.

    Raises StorageError.
    """
    to = storage.real(to)

    @lru_cache(maxsize=16)  # listings come folder by folder
    def is_of_labels(folder: str) -> bool:
        return storage.is_within(storage.real(folder), to)

    files = listing.iter_files(bucket)
    return (file for file in files if not is_of_labels(file.uri.rpartition("/")[0]))


def name_in(bucket: str, uri: str) -> str:
    """Return a recording's path below the bucket, for people; its URI if it is elsewhere."""
    return uri.removeprefix(bucket.rstrip("/") + "/")


def is_current(uri: str, listing_id: str) -> bool:
    """Return whether a listing is still the one in the note: no other run has begun."""
    now = storage.read_json(storage.join(uri, NOTE))["listing"]
    return now is not None and now["id"] == listing_id


@dataclass(frozen=True, kw_only=True, order=True)
class LabelPart:
    """An existing part: the outcome of one shard of one listing."""

    listing_id: str
    shard: int
    uri: str
    size: int
    """Size in bytes."""
    version: str = ""
    """Version when it was listed; a rewritten part has another one and is refused. Empty: any."""


def part_name(listing_id: str, shard: int) -> str:
    """Return the path, below the labels, of the part of a shard."""
    return f"parts/part-{listing_id}-{shard:06d}.parquet"


def manifest_name(listing_id: str) -> str:
    """Return the path, below the labels, of the shard list of a listing."""
    return f"manifest-{listing_id}.parquet"


def find_parts(uri: str, listings: list[str] | None = None) -> list[LabelPart]:
    """Return the existing parts, in the order of `listings` and of their shards.

    If `listings` is given, only parts of these listings. Raises StorageError.
    """
    found = [
        LabelPart(
            listing_id=name[1],
            shard=int(name[2]),
            uri=file.uri,
            size=file.size,
            version=file.version,
        )
        for file in output_folder.below(storage.join(uri, "parts"))
        if (name := _PART.match(file.path)) and (listings is None or name[1] in listings)
    ]
    order = {one: place for place, one in enumerate(listings or [])}
    return sorted(found, key=lambda part: (order.get(part.listing_id, 0), part))


def clear(output: Output) -> None:
    """Remove labels, except their exports and their other versions. Raises StorageError."""
    output.clear()
    sweep(output.uri, output.notes)
    for listing_id in _listings(output.notes):
        storage.remove(storage.join(output.uri, manifest_name(listing_id)))


def sweep(uri: str, notes: Notes, kept: Collection[str] = ()) -> list[str]:
    """Remove parts except `kept`; return files named like parts that no label job wrote.

    A label job wrote a part if the notes name it or its listing, or if it has a label ledger.
    """
    listings = _listings(notes)
    listed = notes.get(SUMMARY, {}).get("parts")  # names in the first format, now their number

    def owned(path: str) -> bool:
        name = _PART.match(path.removeprefix("parts/"))
        if isinstance(listed, list) and path in listed:
            return True
        return name is not None and (name[1] in listings or is_part(storage.join(uri, path), path))

    return output_folder.sweep(uri, _PARTS, owned, kept).others


def _listings(notes: Notes) -> set[str]:
    """Return the ids of the listings in the notes."""
    note = notes.get(NOTE, {})
    found = [*(note.get("listings") or ()), *(note.get("replaced") or ())]
    return {name for name in found if re.fullmatch(r"\w+", str(name))}


def read_labels(uri: str) -> pa.Table:
    """Read the labels at a URI, of any format, as one table. Raises StorageError, FormatError.

    Columns that an earlier version did not write are null.
    """
    summary = storage.read_format(storage.join(uri, SUMMARY), FORMAT, "labels", _FIRST)
    tables = [schema().empty_table()]
    if summary["format"] == _FIRST:
        tables += [storage.read_parquet(storage.join(uri, name)) for name in summary["parts"]]
    else:
        for part, file in files(find_parts(uri, read_note(uri)["listings"])):
            with reading(part, file) as opened:
                tables.append(opened.read())
    return pa.concat_tables(tables, promote_options="default").replace_schema_metadata(None)


def batches(parts: list[LabelPart], columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of parts, part by part, up to 4096 at a time.

    Raises FormatError, and StorageError as `files` does.
    """
    for uri, file in files(parts):
        with reading(uri, file) as part:
            yield from part.iter_batches(_ROWS, columns=columns)


def files(parts: list[LabelPart]) -> Iterator[tuple[str, BinaryIO]]:
    """Yield each part's URI and its open file, which the caller closes; 8 are opened ahead.

    Opening reads a small remote file whole. Raises StorageError, and ChangedError, here and
    while a file is read, if a part was rewritten after it was listed.
    """
    opened = prefetch(_opened, parts, _FILES_AHEAD)
    yield from zip((part.uri for part in parts), opened, strict=True)


def _opened(part: LabelPart) -> BinaryIO:
    return open_binary(part.uri, size=part.size, version=part.version)


def collect(uri: str, parts: list[LabelPart]) -> tuple[LabelLedger, Counter[str], int]:
    """Write `failures.parquet`; return the sum of the ledgers, the failures by reason and in total.

    Raises FormatError, and StorageError as `files` does.
    """
    total, reasons = LabelLedger(), Counter[str]()
    with (
        storage.atomic_path(storage.join(uri, "failures.parquet")) as path,
        parquet.writer(path, FAILURES) as file,
    ):
        for ledger in prefetch(_ledger, parts, _FOOTERS_AHEAD):
            total.merge(ledger)
            reasons.update(row["reason"].split(":")[0] for row in ledger.failures)
            failed = [{name: row[name] for name in FAILURES.names} for row in ledger.failures]
            if failed:
                file.write_table(pa.Table.from_pylist(failed, FAILURES))
    return total, reasons, sum(reasons.values())


def _ledger(part: LabelPart) -> LabelLedger:
    return read_ledger(part.uri, part.size, part.version)
