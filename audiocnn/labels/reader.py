"""Labels that are there: with the bundle that made them, and read batch by batch."""

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
    """That bundle's."""
    classes: tuple[str, ...]
    """That bundle's, in its order."""
    feature: FeatureConfig
    """How recordings were cut into windows."""
    limits: AudioLimits
    has_embeddings: bool
    finished: bool
    """Whether the job that writes them has ended."""
    parts: list[LabelPart]

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """The rows of all parts, some thousands at a time. Raises StorageError, FormatError."""
        return batches(self.parts, columns)

    def require_embeddings(self) -> None:
        """Raise ConfigError where the labels have none."""
        if not self.has_embeddings:
            raise ConfigError(
                f"{self.uri}: labels without embeddings; label again with --embeddings (and "
                "--new-version, to keep these)"
            )

    def name(self, uri: str) -> str:
        """A recording for people: its path below the bucket where it is there."""
        return name_in(self.bucket, uri)


def open_labels(uri: str, bundle: str | None = None) -> Labelled:
    """The labels at a URI, whole or not; `bundle` says where their bundle is now, if it moved.

    Raises StorageError where there are none, FormatError for those of another format, ConfigError
    where the bundle is gone, and MismatchError where it is another one.
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
    """`bundle.json` of the bundle that made the labels."""
    if not storage.exists(storage.join(where, "bundle.json")):
        raise ConfigError(
            f"{labels}: the bundle that made them is not at {where}; say by --bundle where it is"
        )
    summary = read_summary(where)
    if summary["fingerprint"] != fingerprint:
        raise MismatchError(
            f"{where}: bundle {summary['fingerprint']}, and the labels at {labels} are by "
            f"{fingerprint}; say by --bundle where that is"
        )
    return summary


def unit_vectors(batch: pa.RecordBatch) -> tuple[Vectors, npt.NDArray[np.bool_]]:
    """Embeddings of a batch -> [rows, features], of length 1; and which rows have a direction.

    The others, which are zero, not finite or missing, are zeros.
    """
    column = batch.column("embedding")
    vectors = np.zeros((len(batch), column.type.list_size), np.float32)
    there = column.is_valid().to_numpy(zero_copy_only=False)
    flat = column.flatten().to_numpy(zero_copy_only=False)
    vectors[there] = flat.reshape(-1, column.type.list_size)
    return normalised(vectors)


def normalised(vectors: Vectors) -> tuple[Vectors, npt.NDArray[np.bool_]]:
    """[rows, features] with rows of length 1, or of zeros where they have no direction; which."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    good = np.isfinite(lengths) & (lengths > 0)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=good), good[:, 0]
