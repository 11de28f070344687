"""Features written without ingest: numbered windows in parts of different sizes."""

import numpy as np
import pyarrow as pa

from audiocnn import storage
from audiocnn.features.band_sums import BandSums
from audiocnn.features.feature_set import FeaturePart, FeatureSet
from audiocnn.features.part import rows_digest, schema, tensor_array
from helpers.common import SMALL


def write_features(folder: str) -> FeatureSet:
    """Write 90 windows of two classes and three folds in 9 parts. Each begins with its number."""
    columns = schema(SMALL)
    number, parts = 0, {}
    for part in range(9):
        count = 6 + part
        logmel = np.zeros((count, SMALL.n_mels, SMALL.n_frames), np.float16)
        logmel[:, 0, 0] = np.arange(number, number + count)
        rows = [
            {
                "clip_id": str(number + i),
                "uri": "",
                "start_s": 0.0,
                "duration_s": 1.0,
                "label": "ab"[i % 2],
                "fold": 1 + i % 3,
                "source": None,
            }
            for i in range(count)
        ]
        place = columns.get_field_index("logmel")
        table = pa.Table.from_pylist(rows, columns.remove(place))
        table = table.add_column(place, columns.field(place), tensor_array(logmel, SMALL))
        name = f"parts/part-{part:05d}.parquet"
        storage.write_parquet(f"{folder}/{name}", table)
        folds = [row["fold"] for row in rows]
        parts[name] = FeaturePart(
            windows={f: folds.count(f) for f in (1, 2, 3)}, rows=rows_digest(table)
        )
        number += count
    sums = BandSums.of(np.ones((1, SMALL.n_mels, SMALL.n_frames)))
    made = FeatureSet(
        uri=folder,
        config=SMALL,
        classes=("a", "b"),
        corpus="",
        counts={},
        parts=parts,
        folds={fold: {"a": 1, "b": 1} for fold in (1, 2, 3)},
        bands={1: sums, 2: sums, 3: sums},
    )
    made.write()
    return FeatureSet.read(folder)
