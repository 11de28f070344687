"""Storage options reach every process of a job, and no file contains them."""

from collections.abc import Iterator

import pytest

from audiocnn import storage
from audiocnn.config import ModelConfig, TrainConfig
from audiocnn.corpus import synthetic
from audiocnn.errors import StorageError
from audiocnn.storage import listing
from benchmarks.seaweed import KEY, SECRET, SeaweedFS
from helpers.common import SMALL
from pipelines.ingest.job import ingest
from pipelines.label.job import label
from pipelines.options import Evaluate, Ingest, Label, Train
from pipelines.runtime import session
from pipelines.train.job import train


@pytest.fixture
def blind_cluster(s3: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cluster. Its processes and this one know neither the endpoint nor the keys of the store."""
    import ray

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    storage.configure({})
    ray.shutdown()  # processes of other tests' cluster know both
    session.connect()
    yield
    ray.shutdown()
    monkeypatch.undo()
    storage.configure({})


@pytest.mark.slow
@pytest.mark.usefixtures("blind_cluster")
def test_storage_options_reach_every_process_and_are_written_nowhere(
    s3: SeaweedFS, capfd: pytest.CaptureFixture[str]
) -> None:
    lake = s3.bucket()
    options = {"s3": {"endpoint_url": s3.endpoint, "key": KEY, "secret": SECRET}}
    with pytest.raises(StorageError, match=r"no whole answer from http://127\.0\.0\.1:1 "):
        listing.list_files(lake)
    storage.configure(options)
    synthetic.write_corpus(f"{lake}/corpus", clips_per_class=4)
    storage.configure({})

    ingesting = Ingest(
        corpus=f"{lake}/corpus", to=f"{lake}/features", feature=SMALL, folds=2, workers=1,
        storage_options=options,
    )  # fmt: skip
    ingest(ingesting)
    training = Train(
        features=f"{lake}/features", to=f"{lake}/bundle", feature=SMALL, storage_options=options,
        model=ModelConfig(stages=(1, 1, 1, 1), channels=8, dropout=0.0), test_fold=1,
        training=TrainConfig(epochs=1, batch_size=16),
    )  # fmt: skip
    train(training)
    labelling = Label(
        bucket=f"{lake}/corpus", bundle=f"{lake}/bundle", to=f"{lake}/labels", workers=1,
        storage_options=options,
    )  # fmt: skip
    assert label(labelling)["failed"] == 0

    files = listing.list_files(lake)
    assert {file.path.split("/")[0] for file in files} == {"corpus", "features", "bundle", "labels"}
    for file in files:
        assert SECRET.encode() not in storage.read_bytes(file.uri), file.path
    assert SECRET not in "".join(capfd.readouterr())
    evaluating = Evaluate(features="f", to="r", storage_options=options)
    assert SECRET not in repr((ingesting, training, labelling, evaluating))
