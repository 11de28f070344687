"""Ingest, train, label, evaluate and doctor on a real S3 server and a real Ray."""

from pathlib import Path

import pytest

from audiocnn import storage
from audiocnn.config import ModelConfig, TrainConfig
from audiocnn.errors import StorageError
from audiocnn.features.feature_set import FeatureSet
from audiocnn.labels.label_set import read_labels
from audiocnn.model.bundle import Bundle
from audiocnn.storage import listing
from benchmarks.seaweed import SeaweedFS
from helpers.common import SMALL
from pipelines.evaluate import evaluate
from pipelines.ingest.job import ingest
from pipelines.label.job import label
from pipelines.options import Doctor, Evaluate, Ingest, Label, Train
from pipelines.tools.doctor import doctor
from pipelines.train.job import train

# The server starts first, so that the cluster's processes inherit its variables.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("s3", "ray_cluster")]

TINY = ModelConfig(stages=(1, 1, 1, 1), channels=8, dropout=0.0)
SHORT = TrainConfig(epochs=2, batch_size=16)


@pytest.fixture(scope="module")
def lake(s3: SeaweedFS, corpus: Path) -> str:
    """A bucket with the synthetic corpus and a file that is no sound."""
    uri = s3.bucket()
    for file in listing.list_files(str(corpus)):
        storage.write_bytes(f"{uri}/corpus/{file.path}", storage.read_bytes(file.uri))
    storage.write_bytes(f"{uri}/corpus/buzz/1-99999-A.wav", b"RIFF")
    return uri


@pytest.fixture(scope="module")
def features(lake: str) -> FeatureSet:
    return ingest(Ingest(corpus=f"{lake}/corpus", to=f"{lake}/features", feature=SMALL))


@pytest.fixture(scope="module")
def bundle(features: FeatureSet, lake: str) -> str:
    options = Train(
        features=features.uri, to=f"{lake}/bundle", feature=SMALL, model=TINY, training=SHORT,
        test_fold=1, workers=1,
    )  # fmt: skip
    train(options)
    return options.to


def test_the_same_features_as_from_disk(
    features: FeatureSet, lake: str, corpus: Path, tmp_path: Path
) -> None:
    local = ingest(Ingest(corpus=str(corpus), to=str(tmp_path / "f"), feature=SMALL, workers=1))
    assert features.counts["listed"] == local.counts["listed"] + 1
    assert features.counts["failed"] == 1
    assert features.fingerprint != ""
    of_s3, of_disk = (f.load(list(f.folds)) for f in (FeatureSet.read(f"{lake}/features"), local))
    # Parts are named by the URIs of their clips, so their order differs. That of clips does not.
    assert list(FeatureSet.read(f"{lake}/features").parts) != list(local.parts)
    assert of_s3.clip_ids == of_disk.clip_ids == sorted(of_disk.clip_ids)
    assert (of_s3.logmel == of_disk.logmel).all()
    (failure,) = storage.read_parquet(f"{lake}/features/failures.parquet").to_pylist()
    assert failure["uri"] == f"{lake}/corpus/buzz/1-99999-A.wav"


def test_training_leaves_a_bundle_with_its_log_and_no_checkpoints(bundle: str) -> None:
    assert Bundle.read(bundle).metrics["test"]["fold"] == 1
    paths = [file.path for file in listing.list_files(bundle)]
    logs = [path for path in paths if path.startswith("tensorboard/events.out.tfevents.")]
    assert set(paths) - set(logs) == {
        "bundle.json", "job.json", "model.safetensors", "predictions.parquet",
    }  # fmt: skip
    assert logs


def test_a_bucket_is_labelled_and_a_fold_evaluated(
    features: FeatureSet, bundle: str, lake: str
) -> None:
    made = label(Label(bucket=f"{lake}/corpus", bundle=bundle, to=f"{lake}/labels", workers=1))
    assert (made["listed"], made["labelled"], made["failed"]) == (101, 100, 1)
    assert len(set(read_labels(f"{lake}/labels")["uri"].to_pylist())) == 100
    options = Evaluate(
        features=features.uri, to=f"{lake}/report", folds=(2,), feature=SMALL, model=TINY,
        training=SHORT,
    )  # fmt: skip
    evaluate(options)
    assert storage.exists(f"{lake}/report/report.html")
    storage.remove(f"{lake}/report/report.json")
    assert evaluate(options)["clips"] == 20  # the bundle of the fold is used again


def test_an_output_is_replaced_when_asked_for(features: FeatureSet, lake: str) -> None:
    storage.write_bytes(f"{lake}/features/parts/mine.txt", b"kept")
    again = ingest(
        Ingest(
            corpus=f"{lake}/corpus", to=f"{lake}/features", feature=SMALL, overwrite=True, workers=1
        )
    )
    assert again.fingerprint == features.fingerprint
    assert storage.read_bytes(f"{lake}/features/parts/mine.txt") == b"kept"


def test_the_doctor_says_what_can_be_done_and_where(
    s3: SeaweedFS, lake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    doctor(Doctor(uri=f"{lake}/corpus"))
    expected = f"{lake}/corpus can be listed and read ({s3.endpoint}): "
    assert expected in " ".join(capsys.readouterr().out.split())
    assert not doctor(Doctor(uri=lake, storage_options={"s3": {"key": "x", "secret": "y"}}))
    assert f"the access key is not known to {s3.endpoint}" in capsys.readouterr().out
    storage.configure({})


def test_an_object_that_is_gone_costs_a_row_and_a_missing_bucket_the_job(
    lake: str, corpus: Path, tmp_path: Path
) -> None:
    names = [f.path for f in listing.list_files(str(corpus))]
    rows = [f"{lake}/corpus/{name},{name.split('/')[0]}" for name in names[::5]]
    gone = f"{lake}/corpus/bell/gone.wav,bell"
    elsewhere = "s3://no-such-bucket/x.wav,bell"
    for extra in ([gone], [gone, elsewhere]):
        (tmp_path / "m.csv").write_text("\n".join(["uri,label", *rows, *extra]) + "\n")
        options = Ingest(
            corpus=str(tmp_path / "m.csv"),
            to=f"{lake}/m{len(extra)}",
            feature=SMALL,
            folds=2,
            workers=1,
        )
        if extra == [gone]:
            assert ingest(options).counts["failed"] == 1
            continue
        with pytest.raises(StorageError, match=r"s3://no-such-bucket/x\.wav: no such bucket at"):
            ingest(options)
