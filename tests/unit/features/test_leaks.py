from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from audiocnn import storage
from audiocnn.errors import CorpusError
from audiocnn.features import leaks
from audiocnn.features.band_sums import BandSums
from audiocnn.features.feature_set import FeaturePart, FeatureSet
from audiocnn.features.part import rows_digest, schema, tensor_array
from helpers.common import SMALL


def features(
    folder: Path, pictures: list[np.ndarray], folds: list[int], sources: list[str | None]
) -> FeatureSet:
    """Write features of one window per clip, each in its own part."""
    columns = schema(SMALL)
    place = columns.get_field_index("logmel")
    parts = {}
    for index, (picture, fold, source) in enumerate(zip(pictures, folds, sources, strict=True)):
        row = {
            "clip_id": f"clip{index}", "uri": "", "start_s": 0.0, "duration_s": 1.0,
            "label": "ab"[index % 2], "fold": fold, "source": source,
        }  # fmt: skip
        table = pa.Table.from_pylist([row], columns.remove(place))
        table = table.add_column(place, columns.field(place), tensor_array(picture[None], SMALL))
        storage.write_parquet(f"{folder}/p{index}.parquet", table)
        parts[f"p{index}.parquet"] = FeaturePart(windows={fold: 1}, rows=rows_digest(table))
    sums = BandSums.of(np.ones((1, SMALL.n_mels, SMALL.n_frames)))
    made = FeatureSet(
        uri=str(folder), config=SMALL, classes=("a", "b"), corpus="", counts={}, parts=parts,
        folds={fold: {"a": 1} for fold in set(folds)}, bands=dict.fromkeys(folds, sums),
    )  # fmt: skip
    made.write()
    return FeatureSet.read(str(folder))


def noise(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (-40 + 10 * rng.standard_normal((SMALL.n_mels, SMALL.n_frames))).astype(np.float16)


def test_a_sound_in_two_folds_is_refused_and_named(tmp_path: Path) -> None:
    found = features(tmp_path, [noise(0), noise(1), noise(0)], [1, 1, 2], [None] * 3)
    leaked = leaks.find(found)
    assert leaked.same == [(("clip0", 1), ("clip2", 2))]
    assert not leaked.near
    with pytest.raises(CorpusError, match=r"clip0 \(fold 1\) and clip2 \(fold 2\) are the same"):
        leaks.require_none(found, leaked)


def test_a_source_in_two_folds_is_refused_and_named(tmp_path: Path) -> None:
    sources: list[str | None] = ["s", "t", "s"]
    found = features(tmp_path, [noise(0), noise(1), noise(2)], [1, 1, 2], sources)
    leaked = leaks.find(found)
    assert leaked.sources == [("s", [1, 2])]
    with pytest.raises(CorpusError, match="source 's' is in folds 1, 2"):
        leaks.require_none(found, leaked)


def test_one_recording_in_another_encoding_is_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    again = noise(0) + (0.05 * rng.standard_normal(noise(0).shape)).astype(np.float16)
    found = features(tmp_path, [noise(0), noise(1), again], [1, 1, 2], [None] * 3)
    leaked = leaks.find(found)
    assert leaked.near == [(("clip0", 1), ("clip2", 2))]
    leaks.require_none(found, leaked)  # near pairs are only suspicious


def test_a_kind_of_sound_that_all_look_alike_costs_no_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    alike = [
        noise(0) + (0.05 * rng.standard_normal(noise(0).shape)).astype(np.float16)
        for _ in range(80)
    ]
    found = leaks.find(features(tmp_path, alike, [1, 2] * 40, [None] * 80))
    assert len(found.near) == leaks.MOST_NEAR  # of 1,600 pairs


def test_silence_and_sounds_of_one_fold_are_no_leak(tmp_path: Path) -> None:
    silence = np.full((SMALL.n_mels, SMALL.n_frames), -100, np.float16)
    pictures = [silence, silence, noise(0), noise(0)]
    found = features(tmp_path, pictures, [1, 2, 1, 1], ["s", "t", "u", "u"])
    assert leaks.find(found) == leaks.Leaks(sources=[], same=[], near=[])
