"""This version reads the files of earlier versions, with the results that those versions gave."""

import json
import shutil
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audiocnn.config import AudioLimits, FeatureConfig
from audiocnn.errors import ConfigError, FormatError
from audiocnn.features.feature_set import FeatureSet
from audiocnn.labels import label_set
from audiocnn.labels.diff import compare_listing
from audiocnn.labels.reader import open_labels
from audiocnn.labels.shard_list import ListingCounts, row_of
from audiocnn.model.bundle import Bundle
from audiocnn.model.predictor import Predictor
from audiocnn.review.label_copy import Query
from audiocnn.review.label_index import Browser
from audiocnn.review.search import embed, nearest
from audiocnn.review.selection import select_windows
from benchmarks.seaweed import SeaweedFS
from helpers.kept import BUCKET, CORPUS, FRONT_END, KEPT, ROW, known_sound, put_sounds
from pipelines.ingest.job import ingest
from pipelines.label import job
from pipelines.options import Ingest, Label


@dataclass(frozen=True)
class Kept:
    folder: Path
    known: dict[str, Any]
    """The results of the code that wrote the files."""

    def copy(self, name: str, to: Path) -> str:
        """Copy a folder, so that it may be changed; return the URI of the copy."""
        return str(shutil.copytree(self.folder / name, to / name))

    def uri(self, name: str) -> str:
        return str(self.folder / name)


FORMATS = sorted(path.name for path in KEPT.iterdir() if path.is_dir())
EVERY = pytest.mark.parametrize("kept", FORMATS, indirect=True)
FIRST = pytest.mark.parametrize("kept", FORMATS[:1], indirect=True)
LATER = pytest.mark.parametrize("kept", FORMATS[1:], indirect=True)
NOTED = pytest.mark.parametrize("kept", FORMATS[2:], indirect=True)
"""Formats with labels.json, which has the options of the labels."""
UNNOTED = pytest.mark.parametrize("kept", FORMATS[:2], indirect=True)


@pytest.fixture
def kept(request: pytest.FixtureRequest) -> Kept:
    folder = KEPT / request.param
    return Kept(folder, json.loads((folder / "known.json").read_text()))


@pytest.fixture
def sounds(s3: SeaweedFS) -> None:
    """Write the corpus and the bucket to the URIs that they had for the kept files."""
    put_sounds(s3.client())


def feature() -> FeatureConfig:
    return FeatureConfig(**FRONT_END)


@EVERY
def test_features_are_read_whole(kept: Kept) -> None:
    features = FeatureSet.read(kept.uri("features"))
    assert features.fingerprint == kept.known["features"]["fingerprint"]
    features.require_config(feature(), "this")
    rows = features.load(list(features.folds))
    means = rows.logmel.astype(np.float64).mean(axis=(1, 2)).tolist()
    known = kept.known["features"]["means"]
    assert dict(zip(rows.clip_ids, means, strict=True)) == pytest.approx(known, abs=1e-4)
    assert len(known) == features.counts["ingested"] == 12
    assert set(rows.labels) == set(features.classes) == {"click", "saw", "square"}
    mean, _ = features.mean_std(list(features.folds))
    assert mean == pytest.approx(rows.logmel.astype(np.float64).mean(axis=(0, 2)), abs=1e-3)


@EVERY
def test_damage_to_features_is_found(kept: Kept, tmp_path: Path) -> None:
    features = FeatureSet.read(kept.copy("features", tmp_path))
    part = tmp_path / "features" / next(iter(features.parts))
    with pq.ParquetFile(part) as file:
        table = file.read()
    labels = ["saw" if label == "click" else "click" for label in table["label"].to_pylist()]
    place = table.schema.get_field_index("label")
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(labels)), part)
    with pytest.raises(FormatError, match=f"{part.name}: its rows do not match"):
        features.load(list(features.folds))


@EVERY
def test_a_bundle_answers_as_it_did(kept: Kept) -> None:
    predictor, known = Predictor.load(kept.uri("bundle")), kept.known["bundle"]
    found = predictor.predict(known_sound(), top_k=3)
    assert found.bundle == known["fingerprint"]
    assert [window.label for window in found.windows] == known["labels"]
    for window, scores in zip(found.windows, known["scores"], strict=True):
        assert dict(window.top_k) == pytest.approx(scores, abs=1e-4)


@EVERY
def test_labels_are_read(kept: Kept) -> None:
    rows = label_set.read_labels(kept.uri("labels")).select(ROW).to_pylist()
    assert sorted(rows, key=lambda row: (row["uri"], row["start_s"])) == kept.known["labels"]
    assert {row["uri"] for row in rows} == {
        f"{BUCKET}/{name}.wav" for name in ("one", "day/two", "day/three")
    }


@NOTED
def test_labels_are_looked_through(kept: Kept) -> None:
    bundle = kept.uri("bundle")
    opened = open_labels(kept.uri("labels"), bundle)
    assert (opened.bucket, opened.finished, opened.limits) == (BUCKET, True, AudioLimits())
    rows = list(chain.from_iterable(batch.to_pylist() for batch in opened.batches(ROW)))
    assert len(rows) == len(kept.known["labels"])
    assert select_windows(opened, 3)
    browser = Browser(opened.uri)
    browser.refresh(wait=True)
    found, state = browser.find(Query()), browser.state
    browser.close()
    assert found is not None
    assert (state.trouble, state.failed, found.total) == (None, 1, len(rows))


@NOTED
def test_windows_of_old_labels_are_compared(kept: Kept, sounds: None) -> None:
    opened = open_labels(kept.uri("labels"), kept.uri("bundle"))
    clip = embed(Predictor.load(opened.bundle), f"{BUCKET}/day/two.wav", opened)
    (match,) = nearest(opened, clip, 1).matches
    assert match.uri == f"{BUCKET}/day/two.wav"
    assert match.similarity == pytest.approx(1, abs=1e-3)


@UNNOTED
def test_labels_that_do_not_say_what_they_are_made_with_are_refused_in_one_line(
    kept: Kept, tmp_path: Path
) -> None:
    uri = kept.copy("labels", tmp_path)
    with pytest.raises(FormatError, match=r"^.*summary.json: its format is 'audiocnn.labels/1'"):
        open_labels(uri, kept.uri("bundle"))
    with pytest.raises(ConfigError, match=r"^.*labels of an earlier format .* pass --overwrite$"):
        job._begin(label_options(kept, uri), Bundle.read(kept.uri("bundle")))


def label_options(kept: Kept, to: str, **others: Any) -> Label:
    asked: dict[str, Any] = {"top_k": 2, "embeddings": True, **others}
    return Label(bucket=BUCKET, bundle=kept.uri("bundle"), to=to, **asked)


@NOTED
def test_label_goes_on(kept: Kept, sounds: None, tmp_path: Path) -> None:
    to, bundle = kept.copy("labels", tmp_path), Bundle.read(kept.uri("bundle"))
    run = job._begin(label_options(kept, to), bundle)
    assert run.to == to
    assert run.note["listings"]
    later = {"uri": f"{BUCKET}/later.wav", "size": 1, "version": "v", "wrong": None}
    files = ListingCounts().of_recordings(label_set.iter_bucket(BUCKET, to))
    with compare_listing(chain(map(row_of, files), [later])) as comparison:
        comparison.against(run.parts(), retry_failed=False)
        assert list(comparison.to_do()) == [later]
        assert list(comparison.stale()) == []
    version = job._begin(label_options(kept, to, top_k=1, embeddings=False), bundle)
    assert version.to == f"{to}/version-2"
    with pytest.raises(
        ConfigError, match=r"labels with top_k [12] and not 3.* are there; pass --n"
    ):
        job._begin(label_options(kept, to, top_k=3), bundle)


@LATER
def test_ingest_goes_on(
    kept: Kept, sounds: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = kept.copy("features", tmp_path)
    asked = Ingest(corpus=CORPUS, to=to, folds=2, recipe="demo", feature=feature())
    before = FeatureSet.read(to)
    assert replace(ingest(asked), uri=to) == before
    assert "nothing new" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=rf"^--to {to}: .* started with max_samples "):
        ingest(replace(asked, limits=AudioLimits(max_samples=1 << 30)))


@FIRST
def test_ingest_into_features_of_the_first_format_is_refused_in_one_line(
    kept: Kept, sounds: None, tmp_path: Path
) -> None:
    to = kept.copy("features", tmp_path)
    asked = Ingest(corpus=CORPUS, to=to, folds=2, recipe="demo", feature=feature())
    with pytest.raises(ConfigError, match=r"^.*features of another version .* pass --overwrite$"):
        ingest(asked)


def test_what_is_kept_is_small_and_holds_no_recordings() -> None:
    files = [path for path in KEPT.rglob("*") if path.is_file()]
    sizes = {name: sum(f.stat().st_size for f in files if name in f.parts) for name in FORMATS}
    assert max(sizes.values()) < 150_000
    assert sum(sizes.values()) < 600_000
    kinds = {".json", ".parquet", ".safetensors", ".csv", ".md"}
    assert {path.suffix for path in files} <= kinds
