"""Open existing labels with the bundle that made them, and read them batch by batch."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from audiocnn import storage
from audiocnn.config import AudioLimits, FeatureConfig, from_json
from audiocnn.errors import ConfigError, MismatchError
from audiocnn.labels.label_set import (
    SUMMARY,
    LabelPart,
    batches,
    find_parts,
    limits_of,
    name_in,
    read_note,
)
from audiocnn.model.bundle import read_summary

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A folder of labels."""

    uri: str
    bucket: str
    """URI of the recordings."""
    bundle: str
    """URI of the bundle that made the labels."""
    fingerprint: str
    """Fingerprint of that bundle."""
    classes: tuple[str, ...]
    """Classes of that bundle, in its order."""
    feature: FeatureConfig
    """Feature settings of the bundle, with the hop that the labels were made with."""
    limits: AudioLimits
    has_embeddings: bool
    finished: bool
    """Whether the job that writes the labels has finished."""
    parts: list[LabelPart]

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of all parts, up to 4096 at a time. Raises StorageError, FormatError."""
        return batches(self.parts, columns)

    @property
    def warning(self) -> str | None:
        """Warning for users if the job that writes the labels has not finished; else None."""
        if self.finished:
            return None
        return (
            f"{self.uri} is not complete, because `label` has not finished: {len(self.parts)} "
            "parts are used"
        )

    def require_embeddings(self) -> None:
        """Raise ConfigError if the labels have no embeddings."""
        if not self.has_embeddings:
            raise ConfigError(
                f"{self.uri}: labels without embeddings; label again with --embeddings (and "
                "--new-version, to keep these)"
            )

    def name(self, uri: str) -> str:
        """Return a recording's path below the bucket, for people; its URI if it is elsewhere."""
        return name_in(self.bucket, uri)


def open_labels(uri: str, bundle: str | None = None) -> Labelled:
    """Open the labels at a URI, complete or not; `bundle` is their bundle's URI if it was moved.

    Raises StorageError if there are no labels, FormatError for another format, ConfigError if the
    bundle is missing, and MismatchError if it is another bundle.
    """
    uri = storage.absolute(uri)
    note = read_note(uri)
    made_with, where = note["made_with"], storage.absolute(bundle or note["bundle"])
    summary = _bundle(where, made_with["bundle"], uri)
    feature = from_json(FeatureConfig, summary["feature"])
    return Labelled(
        uri=uri,
        bucket=made_with["bucket"],
        bundle=where,
        fingerprint=made_with["bundle"],
        classes=tuple(summary["classes"]),
        feature=replace(feature, hop_s=made_with["hop_s"]),
        limits=limits_of(note),
        has_embeddings=bool(made_with["embeddings"]),
        finished=storage.exists(storage.join(uri, SUMMARY)),
        parts=find_parts(uri, note["listings"]),
    )


def _bundle(where: str, fingerprint: str, labels: str) -> dict[str, Any]:
    """Return `bundle.json` of the bundle that made the labels."""
    if not storage.exists(storage.join(where, "bundle.json")):
        raise ConfigError(
            f"{labels}: the bundle that made them is not at {where}; pass its URI with --bundle"
        )
    summary = read_summary(where)
    if summary["fingerprint"] != fingerprint:
        raise MismatchError(
            f"{where}: it is bundle {summary['fingerprint']}, but bundle {fingerprint} made the "
            f"labels at {labels}; pass the URI of that bundle with --bundle"
        )
    return summary


def unit_vectors(batch: pa.RecordBatch) -> tuple[Vectors, npt.NDArray[np.bool_]]:
    """Return a batch's embeddings scaled to length 1, [rows, features], and [rows] which are valid.

    Embeddings that are zero, not finite or missing are not valid and are returned as zeros.
    """
    column = batch.column("embedding")
    vectors = np.zeros((len(batch), column.type.list_size), np.float32)
    there = column.is_valid().to_numpy(zero_copy_only=False)
    flat = column.flatten().to_numpy(zero_copy_only=False)
    vectors[there] = flat.reshape(-1, column.type.list_size)
    return normalised(vectors)


def normalised(vectors: Vectors) -> tuple[Vectors, npt.NDArray[np.bool_]]:
    """Return [rows, features] with rows scaled to length 1, and [rows] which are valid.

    Rows that are zero or not finite are not valid and are returned as zeros.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    good = np.isfinite(lengths) & (lengths > 0)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=good), good[:, 0]
