"""Cross-validation on a real Ray: parallel folds, seeds, leaks, and calibrated scores."""

import io
import json
import re
import shutil
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from audiocnn.config import UNKNOWN, ModelConfig, TrainConfig
from audiocnn.errors import ConfigError, CorpusError, MismatchError
from audiocnn.features.feature_set import FeatureSet
from audiocnn.features.part import rows_digest, tensor_array
from audiocnn.model.bundle import Bundle, read_summary
from audiocnn.model.predictor import Predictor
from helpers.common import SMALL
from pipelines.evaluate import evaluate
from pipelines.ingest.job import ingest
from pipelines.options import Evaluate, Ingest, Train
from pipelines.train.job import train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

TINY = ModelConfig(stages=(1, 1, 1, 1), channels=8, dropout=0.0)
SHORT = TrainConfig(epochs=5, batch_size=16, max_lr=1e-2)


@pytest.fixture(scope="module")
def features(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    to = tmp_path_factory.mktemp("evaluate") / "features"
    return ingest(Ingest(corpus=str(corpus), to=str(to), feature=SMALL))


def asked(features: FeatureSet, to: Path, **options: object) -> Evaluate:
    return Evaluate(
        features=features.uri, to=str(to), feature=SMALL, model=TINY,
        **{"training": SHORT, "folds": (1, 4), **options},  # type: ignore[arg-type]
    )  # fmt: skip


def final(features: FeatureSet, to: Path, **options: object) -> Train:
    return Train(
        features=features.uri, to=str(to), feature=SMALL, model=TINY, training=SHORT,
        workers=1, **options,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.fixture(scope="module")
def evaluated(features: FeatureSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A report on two folds, and the output of the command. Tests only change copies of it."""
    to, said = tmp_path_factory.mktemp("report") / "r", io.StringIO()
    with redirect_stdout(said):
        evaluate(asked(features, to))
    return to, said.getvalue()


@pytest.fixture
def report(evaluated: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the report."""
    shutil.copytree(evaluated[0], tmp_path / "r")
    return tmp_path / "r"


def test_cross_validation_and_its_report(
    features: FeatureSet, evaluated: tuple[Path, str], report: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    options = asked(features, report)
    assert "2 folds, 2 side by side" in evaluated[1]
    summary = json.loads((report / "report.json").read_text())
    accuracies = [fold["accuracy"] for fold in summary["folds"]]
    assert summary["accuracy_mean"] == pytest.approx(np.mean(accuracies))
    assert summary["accuracy_std"] == pytest.approx(np.std(accuracies, ddof=1))
    assert summary["accuracy_std_seeds"] is None
    confusion = np.array(summary["confusion"])
    assert confusion.sum() == summary["clips"] == 40
    assert len(summary["mistakes"]) == 40 - np.trace(confusion)
    page = (report / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count('<img src="data:image/png;base64,') >= 4
    assert "the last of 5 epochs was used: this choice does not depend on the tested fold" in page
    for fold in summary["folds"]:
        assert fold["bundle"] in page

    (report / "report.json").unlink()  # as if it had been stopped
    assert evaluate(options) == summary == json.loads((report / "report.json").read_text())
    assert "2 bundles exist already" in capsys.readouterr().out


def test_a_fold_is_calibrated_by_the_others_and_answers_so(
    features: FeatureSet, report: Path, tmp_path: Path
) -> None:
    summary = json.loads((report / "report.json").read_text())
    found = summary["calibration"]
    made = Bundle.read(str(report / "folds" / "1"))
    assert made.fingerprint == summary["folds"][0]["bundle"]
    assert made.calibration.temperature == found["temperatures"][0] != 1.0
    assert len(made.calibration.thresholds) == len(features.classes)
    assert sum(found["before"]["counts"]) == summary["clips"]
    assert 0 < found["answered"] <= 1

    strict = replace(made.calibration, thresholds=(1.01,) * len(features.classes))
    clip = features.load([1]).uris[0]
    answer = Predictor(replace(made, calibration=strict)).predict(clip)
    assert (answer.label, answer.known) == (UNKNOWN, False)
    assert all(window.label == UNKNOWN for window in answer.windows)
    assert answer.top_k[0][0] in features.classes
    assert answer.score == answer.top_k[0][1]

    whole = train(final(features, tmp_path / "b", calibration=str(report)))
    assert whole.calibration.temperature == found["temperature"]
    assert list(whole.calibration.thresholds) == found["thresholds"]
    (report / "report.json").write_text(json.dumps({**summary, "features": "others"}))
    with pytest.raises(MismatchError, match="this report is of other features"):
        train(final(features, tmp_path / "c", calibration=str(report)))
    with pytest.raises(ConfigError, match="calibration is for a model of all folds"):
        final(features, tmp_path / "c", calibration="r", test_fold=1)


def test_a_validation_fold_calibrates_its_bundle(features: FeatureSet, tmp_path: Path) -> None:
    made = train(final(features, tmp_path / "b", test_fold=1, validation_fold=2))
    assert made.calibration.temperature != 1.0
    assert len(made.calibration.thresholds) == len(features.classes)


def test_a_finished_evaluation_takes_more_folds_and_more_seeds(
    features: FeatureSet, report: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads((report / "report.json").read_text())
    with pytest.raises(ConfigError, match=r"report\.json is there already"):
        evaluate(asked(features, report, folds=(4,)))
    summary = evaluate(asked(features, report, folds=(1,), seeds=2))
    assert "2 bundles exist already" in capsys.readouterr().out
    rows = [(row["fold"], row["seed"]) for row in summary["folds"]]
    assert rows == [(1, 0), (4, 0), (1, 1), (4, 1)]
    assert len({row["bundle"] for row in summary["folds"]}) == 4
    assert summary["clips"] == 40
    assert np.array(summary["confusion"]).sum() == 80
    accuracies = {(row["fold"], row["seed"]): row["accuracy"] for row in summary["folds"]}
    for row in before["folds"]:
        assert accuracies[row["fold"], 0] == row["accuracy"]
    means = [row["accuracy_mean"] for row in summary["seeds"]]
    assert summary["accuracy_std_seeds"] == pytest.approx(np.std(means, ddof=1))
    assert read_summary(str(report / "folds" / "4.seed1"))["provenance"]["training"]["seed"] == 1
    for fewer in (asked(features, report), asked(features, report, folds=(1,), seeds=2)):
        with pytest.raises(ConfigError, match=r"report\.json is there already"):
            evaluate(fewer)
    assert json.loads((report / "report.json").read_text()) == summary


def test_bundles_of_other_options_are_refused_before_anything_is_trained(
    features: FeatureSet, report: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in report.rglob("*")}
    with pytest.raises(MismatchError, match="this bundle differs in training"):
        evaluate(asked(features, report, folds=(2,), training=replace(SHORT, epochs=1)))
    assert {path: path.stat().st_mtime_ns for path in report.rglob("*")} == before


def test_a_sound_in_two_folds_is_refused_unless_it_is_allowed(
    features: FeatureSet, tmp_path: Path
) -> None:
    leaky = with_a_leak(features, tmp_path / "features")
    changed = asked(leaky, tmp_path / "r", training=replace(SHORT, epochs=1))
    with pytest.raises(CorpusError, match=r"are the same sound .* --allow-leaks"):
        evaluate(changed)
    with pytest.raises(CorpusError, match="are the same sound"):
        train(final(leaky, tmp_path / "b", test_fold=1))
    assert evaluate(replace(changed, allow_leaks=True))["clips"] == 40


def with_a_leak(features: FeatureSet, to: Path) -> FeatureSet:
    """Write features where one window of fold 4 is replaced by one of fold 1, and return them."""
    copy = replace(features, uri=str(to))
    rows = features.load([1])
    parts, copied = {}, False
    for name, part in features.parts.items():
        table = pq.read_table(f"{features.uri}/{name}")
        place = next((i for i, fold in enumerate(table["fold"].to_pylist()) if fold == 4), None)
        if place is not None and not copied:
            column = table.schema.get_field_index("logmel")
            values = table["logmel"].combine_chunks().to_numpy_ndarray().copy()
            values[place] = rows.logmel[0]
            table = table.set_column(
                column, table.schema.field(column), tensor_array(values, SMALL)
            )
            copied = True
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, to / name)
        parts[name] = replace(part, rows=rows_digest(table))
    replace(copy, parts=parts).write()
    return FeatureSet.read(str(to))
