"""Workers and models on GPUs accept only the bundle with which the labels were begun."""

from pathlib import Path

import pytest

from audiocnn.errors import MismatchError
from audiocnn.model.bundle import Bundle
from helpers.common import SMALL, make_bundle
from pipelines.label.gpu_models import GpuModel
from pipelines.label.worker import LabelWorker, Work
from pipelines.options import Label


@pytest.fixture
def options(tmp_path: Path) -> Label:
    """The options of a run; its bundle is replaced after the run began."""
    return Label(bucket="b", bundle=str(tmp_path / "bundle"), to=str(tmp_path / "labels"))


def begun_then_replaced(options: Label) -> tuple[Bundle, Bundle]:
    folder = Path(options.bundle)
    return make_bundle(folder), make_bundle(folder, seed=1)


def test_a_bundle_that_was_replaced_meanwhile_labels_nothing(options: Label) -> None:
    begun, there = begun_then_replaced(options)
    work = Work(
        to=options.to, listing_id="aa", manifest="", feature=SMALL, bundle=begun.fingerprint,
        options=options,
    )  # fmt: skip
    both = f"{there.fingerprint}.*started with {begun.fingerprint}"
    with pytest.raises(MismatchError, match=both):
        LabelWorker(work, [])
    with pytest.raises(MismatchError, match=both):
        GpuModel(options, begun.fingerprint, {}).ready()
    GpuModel(options, there.fingerprint, {}).ready()
