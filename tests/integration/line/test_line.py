"""All steps on a real Ray: corpus -> features -> bundle -> report -> labels."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from audiocnn import storage
from audiocnn.audio.decode import windows
from audiocnn.audio.encode import encode
from audiocnn.config import ModelConfig, TrainConfig
from audiocnn.corpus import synthetic
from audiocnn.corpus.read import read_corpus
from audiocnn.errors import AudioCNNError, ConfigError, FormatError, MismatchError
from audiocnn.features.feature_set import FeatureSet
from audiocnn.features.logmel import LogMel
from audiocnn.labels.label_set import read_labels
from audiocnn.model.bundle import Bundle
from audiocnn.model.predictor import Predictor
from audiocnn.training import checkpoint
from helpers.common import SMALL
from helpers.small_parts import features_part
from pipelines.evaluate import evaluate, report_on
from pipelines.ingest.job import ingest
from pipelines.label.job import label
from pipelines.options import Evaluate, Ingest, Label, Train
from pipelines.train.job import train
from pipelines.train.plan import plan

pytestmark = pytest.mark.usefixtures("ray_cluster")

TINY = ModelConfig(stages=(1, 1, 1, 1), channels=8, dropout=0.0)
BAD = {"buzz/cut.wav": b"RIFF", "bell/empty.wav": b"", "siren/text.wav": b"not a sound"}


@pytest.fixture(scope="module")
def features(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    """Features of the synthetic corpus and of three files that are no sounds."""
    folder = tmp_path_factory.mktemp("line")
    shutil.copytree(corpus, folder / "corpus")
    for index, (name, data) in enumerate(BAD.items()):
        path = folder / "corpus" / name
        path.with_name(f"1-{90_000 + index}-A.wav").write_bytes(data)
    (folder / "corpus" / "LICENSE").write_text("CC0")
    return ingest(Ingest(corpus=str(folder / "corpus"), to=str(folder / "features"), feature=SMALL))


def training(features: FeatureSet, to: Path, **options: object) -> Train:
    settings = {"epochs": 3, "batch_size": 16, "max_lr": 1e-2, **options.pop("settings", {})}  # type: ignore[dict-item]
    return Train(
        features=features.uri,
        to=str(to),
        feature=SMALL,
        model=TINY,
        training=TrainConfig(**settings),  # type: ignore[arg-type]
        **{"test_fold": 1, "workers": 1, **options},  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def bundle(features: FeatureSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("trained") / "bundle"
    train(training(features, to, workers=2))
    return to


def test_every_clip_is_in_the_features_or_in_the_failures_once(features: FeatureSet) -> None:
    table = pa.concat_tables(pq.read_table(f"{features.uri}/{part}") for part in features.parts)
    failures = pq.read_table(f"{features.uri}/failures.parquet").to_pylist()
    listed = [clip.clip_id for clip in read_corpus(features.corpus).clips]
    there = set(table["clip_id"].to_pylist())
    failed = {row["uri"].removeprefix(f"{features.corpus}/") for row in failures}
    assert sorted(there | failed) == sorted(listed)
    assert not there & failed
    assert {row["reason"].split(":")[0] for row in failures} == {"empty", "unrecognised"}
    assert all(row["stage"] == "decode" for row in failures)
    assert features.counts == {
        "listed": 103,
        "ingested": 100,
        "failed": 3,
        "ignored": 1,
        "windows": table.num_rows,
    }
    keys = list(zip(table["clip_id"].to_pylist(), table["start_s"].to_pylist(), strict=True))
    assert len(keys) == len(set(keys))


def test_plain_pyarrow_reads_typed_tensors(features: FeatureSet) -> None:
    part = next(iter(features.parts))
    table = pq.read_table(f"{features.uri}/{part}")
    kind = table.schema.field("logmel").type
    assert isinstance(kind, pa.FixedShapeTensorType)
    assert kind.value_type == pa.float16()
    assert kind.shape == [SMALL.n_mels, SMALL.n_frames]
    assert table.schema.names == [
        "clip_id", "uri", "start_s", "duration_s", "label", "fold", "source", "logmel",
        "level_dbfs", "channel",
    ]  # fmt: skip
    first = table["logmel"].combine_chunks().to_numpy_ndarray()[0]
    assert np.isfinite(first).all()


def test_duckdb_reads_them_too(features: FeatureSet) -> None:
    query = f"""
        SELECT label, count(*), min(len(logmel)), max(len(logmel)), avg(duration_s)
        FROM '{features.uri}/parts/*.parquet' GROUP BY label ORDER BY label
    """
    rows = duckdb.sql(query).fetchall()
    assert [row[0] for row in rows] == list(features.classes)
    assert {row[2] for row in rows} == {row[3] for row in rows} == {SMALL.n_mels * SMALL.n_frames}


def test_stated_statistics_are_the_features_own(features: FeatureSet) -> None:
    rows = features.load(list(features.folds))
    stated = json.loads(Path(features.uri, "features.json").read_text())
    x = rows.logmel.astype(np.float64)
    assert np.allclose(stated["mean"], x.mean(axis=(0, 2)), atol=1e-3)
    assert np.allclose(stated["std"], x.std(axis=(0, 2)), atol=1e-3)
    mean, _ = features.mean_std([2, 3])
    chosen = np.isin(rows.folds, [2, 3])
    assert np.allclose(mean, x[chosen].mean(axis=(0, 2)), atol=1e-3)


def test_ingest_anew_gives_the_same(features: FeatureSet) -> None:
    options = {"corpus": features.corpus, "to": features.uri, "feature": SMALL}
    stale = features_part(Path(features.uri))
    Path(features.uri, "parts", "mine.txt").write_text("kept")
    again = ingest(Ingest(**options, overwrite=True))  # type: ignore[arg-type]
    assert again.fingerprint == features.fingerprint
    assert not stale.exists()
    assert Path(features.uri, "parts", "mine.txt").exists()


def test_labels_are_part_of_the_features_fingerprint(features: FeatureSet, tmp_path: Path) -> None:
    shutil.copytree(features.corpus, tmp_path / "corpus")
    bell, buzz = tmp_path / "corpus" / "bell", tmp_path / "corpus" / "buzz"
    bell.rename(tmp_path / "corpus" / "x")
    buzz.rename(bell)
    (tmp_path / "corpus" / "x").rename(buzz)
    swapped = ingest(
        Ingest(corpus=str(tmp_path / "corpus"), to=str(tmp_path / "f"), feature=SMALL, workers=1)
    )
    assert swapped.counts == features.counts
    assert swapped.classes == features.classes
    assert swapped.fingerprint != features.fingerprint


def test_overwrite_removes_nothing_before_everything_is_checked(
    features: FeatureSet, bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    shutil.copytree(features.uri, folder / "features")
    shutil.copytree(bundle, folder / "bundle")
    (folder / "labels").mkdir()
    (folder / "labels" / "summary.json").write_text("{}")
    (folder / "report").mkdir()
    (folder / "report" / "report.json").write_text("{}")
    before = sorted(folder.rglob("*"))
    there = {name: str(folder / name) for name in ("features", "bundle", "labels", "report")}
    for call in (
        lambda: ingest(Ingest(corpus="typo", to=there["features"], overwrite=True)),
        lambda: train(Train(features=features.uri, to=there["bundle"], overwrite=True)),
        lambda: train(
            training(
                features, folder / "bundle", workers=16, settings={"batch_size": 32}, overwrite=True
            )
        ),
        lambda: evaluate(Evaluate(features=features.uri, to=there["report"], overwrite=True)),
        lambda: label(
            Label(bucket="typo", bundle=there["bundle"], to=there["labels"], overwrite=True)
        ),
        lambda: label(
            Label(
                bucket=features.corpus,
                bundle=there["bundle"],
                to=there["labels"],
                hop_s=9.0,
                overwrite=True,
            )
        ),
    ):
        with pytest.raises(AudioCNNError):
            call()
        assert sorted(folder.rglob("*")) == before


def test_a_damaged_bundle_is_one_line_and_no_pool_of_dying_workers(
    features: FeatureSet, bundle: Path, tmp_path: Path
) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    weights = tmp_path / "bundle" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(FormatError, match=r"model\.safetensors does not match"):
        label(
            Label(bucket=features.corpus, bundle=str(tmp_path / "bundle"), to=str(tmp_path / "l"))
        )


def test_a_report_refuses_predictions_that_are_not_the_bundles(
    features: FeatureSet, bundle: Path, tmp_path: Path
) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    predictions = tmp_path / "bundle" / "predictions.parquet"
    pq.write_table(pq.read_table(predictions).slice(1), predictions)
    with pytest.raises(FormatError, match=r"predictions\.parquet does not match"):
        report_on(str(tmp_path / "bundle"), features, str(tmp_path / "r"))


def test_a_bundle_is_complete_and_says_where_it_comes_from(
    features: FeatureSet, bundle: Path
) -> None:
    made = Bundle.read(str(bundle))
    assert made.classes == features.classes
    assert made.feature == SMALL
    assert made.provenance["features"] == features.fingerprint
    assert made.provenance["train_folds"] == [2, 3, 4, 5]
    assert made.metrics["kept_epoch"] == "last"
    assert made.metrics["test"]["fold"] == 1
    assert made.provenance["corpus"] == "corpus"
    for path in (bundle / "bundle.json", bundle / "job.json", bundle / "predictions.parquet"):
        assert str(Path(features.corpus).parent).encode() not in path.read_bytes()
    mean, _ = features.mean_std([2, 3, 4, 5])
    assert np.allclose(made.model.mean.numpy(), mean)
    files = {p.name for p in bundle.iterdir()}
    assert files == {
        "bundle.json", "model.safetensors", "predictions.parquet", "job.json", "tensorboard",
    }  # fmt: skip


def test_the_tested_clips_are_the_folds_and_the_accuracy_is_theirs(
    features: FeatureSet, bundle: Path
) -> None:
    rows = pq.read_table(bundle / "predictions.parquet").to_pylist()
    assert {r["clip_id"] for r in rows} == set(features.load([1]).clip_ids)
    right = []
    for clip_id in {r["clip_id"] for r in rows}:  # each row is a window of a clip
        windows = [r for r in rows if r["clip_id"] == clip_id]
        total = sum(r["duration_s"] * np.array(r["scores"]) for r in windows)
        right.append(features.classes[int(np.argmax(total))] == windows[0]["label"])
    stated = Bundle.read(str(bundle)).metrics["test"]["accuracy"]
    assert stated == pytest.approx(np.mean(right))


def test_tensorboard_has_every_epoch_and_the_confusion(bundle: Path) -> None:
    log = EventAccumulator(str(bundle / "tensorboard"))
    log.Reload()
    for name in ("loss", "lr", "windows_per_s"):
        assert [event.step for event in log.Scalars(name)] == [1, 2, 3]
    assert log.Tags()["images"] == ["confusion/test"]


@pytest.mark.thorough
def test_two_workers_give_the_same_bundle_each_time(
    features: FeatureSet, bundle: Path, tmp_path: Path
) -> None:
    again = train(training(features, tmp_path / "again", workers=2))
    assert again.fingerprint == Bundle.read(str(bundle)).fingerprint
    other = train(training(features, tmp_path / "other", workers=2, settings={"seed": 1}))
    assert other.fingerprint != again.fingerprint


def test_a_validation_fold_chooses_the_epoch_and_streaming_trains(
    features: FeatureSet, tmp_path: Path
) -> None:
    options = training(
        features, tmp_path / "b", workers=2, validation_fold=2, data="stream",
        settings={"ema_decay": 0.5},
    )  # fmt: skip
    made = train(options)
    assert made.provenance["train_folds"] == [3, 4, 5]
    log = EventAccumulator(str(tmp_path / "b" / "tensorboard"))
    log.Reload()
    accuracies = {e.step: e.value for e in log.Scalars("accuracy")}
    kept = made.metrics["kept_epoch"]
    assert accuracies[kept] == pytest.approx(max(accuracies.values()))
    assert made.metrics["validation"]["accuracy"] == pytest.approx(accuracies[kept])
    assert "confusion/validation" in log.Tags()["images"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_fold": 9}, "no fold 9; the folds are 1, 2, 3, 4, 5"),
        ({"workers": 64, "settings": {"batch_size": 128}}, "--workers 64: the cluster has"),
        ({"gpu": True}, "has 0 GPUs"),
        ({"settings": {"batch_size": 500}}, "--batch-size 500: there are only 160 windows"),
        ({"data": "stream", "settings": {"batch_size": 80}, "workers": 40}, "--data stream"),
    ],
)
def test_training_that_cannot_be_says_so_at_once(
    features: FeatureSet, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises((ConfigError, MismatchError), match=message):
        train(training(features, tmp_path / "b", **change))


def test_features_of_another_recipe_are_refused(features: FeatureSet, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="n_mels 32 and not 128"):
        train(Train(features=features.uri, to=str(tmp_path / "b")))


def test_an_unfinished_run_with_other_options_is_refused(
    features: FeatureSet, tmp_path: Path
) -> None:
    to = tmp_path / "b"
    job = replace(plan(training(features, to, settings={"epochs": 9}), features), to=str(to))
    storage.write_json(f"{to}/job.json", job.note)
    checkpoint.write(job.checkpoint, {"job": job.fingerprint})
    with pytest.raises(MismatchError, match=r"unfinished run there differs in .*training"):
        train(training(features, to))


def test_200_good_and_20_bad_recordings(bundle: Path, tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    for index in range(200):
        name = list(synthetic.SOUNDS)[index % 10]
        container = ("wav", "flac", "ogg", "mp3")[index % 4]
        data = encode(synthetic.sound(name, index, 1.0, 22_050), 22_050, container)
        (bucket / f"good {index:03d}.{container}").write_bytes(data)
    whole = encode(synthetic.sound("bell", 1, 1.0), 22_050)
    nan = np.full(22_050, np.nan, np.float32)
    broken = [
        whole[: len(whole) // 2],
        b"",
        b"not a sound\n",
        encode(np.zeros(0), 22_050),
        encode(nan, 22_050, "wav", "FLOAT"),
    ]
    for index in range(20):
        (bucket / f"bad {index:02d}.wav").write_bytes(broken[index % 5])
    (bucket / "cover.jpg").write_bytes(b"\xff\xd8")
    to = tmp_path / "labels"
    summary = label(Label(bucket=str(bucket), bundle=str(bundle), to=str(to)))
    assert (summary["listed"], summary["labelled"], summary["failed"]) == (221, 200, 20)
    assert summary["skipped"] == 1
    reasons = {"truncated": 4, "empty": 8, "unrecognised": 4, "non_finite": 4}
    assert summary["reasons"] == reasons
    table = read_labels(str(to))
    assert sorted(set(table["uri"].to_pylist())) == sorted(str(p) for p in bucket.glob("good*"))
    assert set(table["bundle"].to_pylist()) == {Bundle.read(str(bundle)).fingerprint}
    for row in table.to_pylist():
        assert row["label"] == row["top_k"][0]["label"]
        assert 0 < row["score"] <= 1
        assert row["end_s"] > row["start_s"]
    failures = pq.read_table(to / "failures.parquet").to_pylist()
    assert len(failures) == 20
    assert all(row["reason"] and "bad" in row["uri"] for row in failures)


def test_one_decoder_and_one_front_end(features: FeatureSet, bundle: Path, tmp_path: Path) -> None:
    """A stereo file of 44.1 kHz gives the same arrays in ingest, `Predictor`, `LogMel`, label."""
    left = synthetic.sound("siren", 5, 2.7, 44_100)
    right = synthetic.sound("bell", 6, 2.7, 44_100)
    data = encode(np.stack([left, right], axis=1), 44_100, "flac")
    for name in ("a", "b"):
        (tmp_path / "corpus" / name).mkdir(parents=True)
        for take in range(2):
            (tmp_path / "corpus" / name / f"{take}.flac").write_bytes(data)
    made = ingest(
        Ingest(
            corpus=str(tmp_path / "corpus"),
            to=str(tmp_path / "f"),
            feature=SMALL,
            folds=2,
            workers=1,
        )
    )
    rows = made.load(sorted(made.folds))
    by_ingest = rows.logmel[[i for i, c in enumerate(rows.clip_ids) if c == "a/0.flac"]]

    predictor = Predictor.load(str(bundle))
    parts = list(predictor.decode(data))
    by_predictor = predictor.features([p.samples for p in parts])
    by_hand = LogMel(SMALL)([w.samples for w in windows(data, SMALL)]).astype(np.float16)
    assert np.array_equal(by_ingest, by_hand)
    assert np.array_equal(by_predictor, by_hand)

    label(
        Label(
            bucket=str(tmp_path / "corpus"), bundle=str(bundle), to=str(tmp_path / "l"), workers=1
        )
    )
    expected = predictor.scores(by_ingest)
    rows = read_labels(str(tmp_path / "l")).to_pylist()
    rows_of_a = [row for row in rows if row["uri"].endswith("a/0.flac")]
    assert len(rows_of_a) == len(expected) == 3
    for row, scores in zip(rows_of_a, expected, strict=True):
        assert row["label"] == predictor.bundle.classes[int(scores.argmax())]
        assert row["score"] == pytest.approx(float(scores.max()), abs=1e-6)
