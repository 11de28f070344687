"""Folders of labels without Ray: of real sounds, or of rows as a test wants them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from audiocnn import labels, labelset, storage
from audiocnn.config import AudioLimits, to_json
from audiocnn.extractor import Extractor
from audiocnn.labeller import Labeller, Model
from audiocnn.listing import list_files
from audiocnn.manifest import Entry
from audiocnn.predictor import Predictor
from audiocnn.recordings import Recording


def write_notes(to: str, bucket: str, predictor: Predictor, bundle: str, **changes: Any) -> None:
    """What `label` writes beside its parts."""
    made_with = {
        "bundle": predictor.bundle.fingerprint,
        "features": predictor.bundle.feature.fingerprint,
        "bucket": bucket,
        "hop_s": predictor.bundle.feature.hop_s,
        "top_k": 2,
        "embeddings": True,
        **to_json(AudioLimits()),
        **changes,
    }
    note = {"format": labels.FORMAT, "made_with": made_with, "bundle": bundle, "listings": ["aa"]}
    storage.write_json(f"{to}/{labelset.NOTE}", note)
    storage.write_json(f"{to}/{labelset.SUMMARY}", {"format": labels.FORMAT})


def label_bucket(to: str, bucket: str, predictor: Predictor, bundle: str) -> None:
    """Labels of a folder of sounds, in parts of ten recordings, as the job makes them."""
    judge = Model(predictor, embeddings=True).judge
    found = [
        Entry(recording=Recording(uri=f.uri, size=f.size, version=f.version), wrong=None)
        for f in list_files(bucket)
    ]
    with Extractor(predictor.bundle.feature, AudioLimits(), storage.configured()) as extractor:
        labeller = Labeller(predictor.bundle, extractor, judge, 2, embeddings=True)
        for shard, start in enumerate(range(0, len(found), 10)):
            name = labelset.part_name("aa", shard)
            with storage.placed(f"{to}/{name}") as path:
                labeller.part(found[start : start + 10], path, name)
    write_notes(to, bucket, predictor, bundle)


def write_parts(to: Path, rows: Sequence[dict[str, Any]], parts: int = 3) -> None:
    """Rows as parts of labels, recordings whole; what a row does not say is filled in."""
    size = next((len(row["embedding"]) for row in rows if "embedding" in row), None)
    uris = list(dict.fromkeys(row["uri"] for row in rows))
    (to / "parts").mkdir(parents=True, exist_ok=True)
    for part in range(parts):
        mine = [filled(row) for row in rows if uris.index(row["uri"]) % parts == part]
        table = pa.Table.from_pylist(mine, labels.schema(size))
        pq.write_table(table, to / labelset.part_name("aa", part), row_group_size=100)


def filled(row: dict[str, Any]) -> dict[str, Any]:
    """A row with what a test does not care for."""
    plain = {"version": "v", "end_s": row["start_s"] + 1.0, "bundle": "f00d", "score": 0.5}
    row = {**plain, "label": "dog", **row}
    best = {"label": row["label"], "score": row["score"]}
    return {"top_k": [best, {"label": "rain", "score": row["score"] / 2}], **row}


def change_note(folder: Path, **changes: Any) -> None:
    """Write `labels.json` with other values of `made_with`."""
    note = json.loads((folder / "labels.json").read_text())
    note["made_with"] |= changes
    (folder / "labels.json").write_text(json.dumps(note))
