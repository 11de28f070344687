"""Write folders of labels without Ray: from real sounds, or from rows that a test gives."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from audiocnn import storage
from audiocnn.audio.recording import Recording
from audiocnn.config import AudioLimits, to_json
from audiocnn.features.extractor import Extractor
from audiocnn.labels import label_set, part as label_part
from audiocnn.labels.labeller import Labeller, Scorer
from audiocnn.labels.shard_list import Entry
from audiocnn.model.predictor import Predictor
from audiocnn.storage.listing import list_files


def write_notes(to: str, bucket: str, predictor: Predictor, bundle: str, **changes: Any) -> None:
    """Write `labels.json` and `summary.json` beside the parts, as `label` does."""
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
    note = {
        "format": label_part.FORMAT,
        "made_with": made_with,
        "bundle": bundle,
        "listings": ["aa"],
    }
    storage.write_json(f"{to}/{label_set.NOTE}", note)
    storage.write_json(f"{to}/{label_set.SUMMARY}", {"format": label_part.FORMAT})


def label_bucket(to: str, bucket: str, predictor: Predictor, bundle: str) -> None:
    """Label a folder of sounds, in parts of ten recordings, as the job does."""
    score = Scorer(predictor, embeddings=True).score
    found = [
        Entry(recording=Recording(uri=f.uri, size=f.size, version=f.version), wrong=None)
        for f in list_files(bucket)
    ]
    with Extractor(predictor.bundle.feature, AudioLimits(), storage.configured()) as extractor:
        labeller = Labeller(predictor.bundle, extractor, score, 2, embeddings=True)
        for shard, start in enumerate(range(0, len(found), 10)):
            name = label_set.part_name("aa", shard)
            with storage.atomic_path(f"{to}/{name}") as path:
                labeller.part(found[start : start + 10], path, name)
    write_notes(to, bucket, predictor, bundle)


def write_parts(to: Path, rows: Sequence[dict[str, Any]], parts: int = 3) -> None:
    """Write rows, completed by `filled`, as parts of labels. A recording is in one part only."""
    size = next((len(row["embedding"]) for row in rows if "embedding" in row), None)
    uris = list(dict.fromkeys(row["uri"] for row in rows))
    (to / "parts").mkdir(parents=True, exist_ok=True)
    for part in range(parts):
        mine = [filled(row) for row in rows if uris.index(row["uri"]) % parts == part]
        table = pa.Table.from_pylist(mine, label_part.schema(size))
        pq.write_table(table, to / label_set.part_name("aa", part), row_group_size=100)


def filled(row: dict[str, Any]) -> dict[str, Any]:
    """The row, with default values for the fields that it lacks."""
    plain = {"version": "v", "end_s": row["start_s"] + 1.0, "bundle": "f00d", "score": 0.5}
    row = {**plain, "label": "dog", **row}
    best = {"label": row["label"], "score": row["score"]}
    return {"top_k": [best, {"label": "rain", "score": row["score"] / 2}], **row}


def change_note(folder: Path, **changes: Any) -> None:
    """Write `labels.json` with other values of `made_with`."""
    note = json.loads((folder / "labels.json").read_text())
    note["made_with"] |= changes
    (folder / "labels.json").write_text(json.dumps(note))
