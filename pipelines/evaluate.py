"""`audiocnn evaluate`: k-fold cross-validation, and its report."""

from dataclasses import fields
from typing import Any

from audiocnn import bundle, outputs, storage
from audiocnn.errors import FormatError, MismatchError
from audiocnn.featureset import FeatureSet
from audiocnn.report import FoldResult, predictions_sha256, write_report
from pipelines import display, session
from pipelines.options import Evaluate, Train
from pipelines.train import Job, plan, train


def evaluate(options: Evaluate) -> dict[str, Any]:
    """Train a model for each fold on all others, test it once, and write the report.

    A fold whose bundle is there already, from the same options, is not trained again. Returns
    the content of `report.json`. Raises AudioCNNError as `train` does.
    """
    storage.configure(options.storage_options)
    to = outputs.claim(options.to, "report.json", overwrite=options.overwrite)
    features = FeatureSet.read(options.features)
    folds = list(options.folds or sorted(features.folds))
    features.require_folds(folds)
    if len(features.folds) < 2:
        raise MismatchError(f"{features.uri}: one fold alone leaves nothing to train on")
    jobs = {fold: plan(_fold_options(options, fold, _bundle(to, fold))) for fold in folds}
    session.connect().require(options.workers, gpu=options.gpu)
    if options.overwrite:
        outputs.clear(to, "report.json", ("report.html", "folds/*"))
    for fold, job in jobs.items():
        _train_fold(fold, job)
    summary = report_on({fold: _bundle(to, fold) for fold in folds}, features, to)
    print_report(summary, to)
    return summary


def _bundle(to: str, fold: int) -> str:
    return storage.join(to, "folds", str(fold))


def _fold_options(options: Evaluate, fold: int, to: str) -> Train:
    shared = {f.name: getattr(options, f.name) for f in fields(options) if f.name != "folds"}
    return Train(**{**shared, "to": to, "test_fold": fold})


def _train_fold(fold: int, job: Job) -> None:
    """Train a fold, unless its bundle is there already. Raises MismatchError for another one."""
    to = job.options.to
    if not storage.exists(storage.join(to, "bundle.json")):
        train(job.options)
        return
    differ = job.differs_from(bundle.read_summary(to)["provenance"])
    if differ:
        raise MismatchError(f"{to}: made with another {differ}; name another --to, or --overwrite")
    display.step(f"fold {fold}: its bundle is there already")


def report_on(bundles: dict[int, str], features: FeatureSet, to: str) -> dict[str, Any]:
    """The report of bundles that were tested on a fold each: {fold: bundle URI}."""
    results = []
    for fold, uri in bundles.items():
        table = storage.read_parquet(storage.join(uri, "predictions.parquet"))
        summary = bundle.read_summary(uri)
        if predictions_sha256(table) != summary["metrics"]["test"]["predictions_sha256"]:
            raise FormatError(f"{uri}: predictions.parquet is not the one of its bundle.json")
        results.append(FoldResult.of_table(table, fold, summary["fingerprint"]))
    made = summary["provenance"]
    made_with = (
        f"Recipe {made['recipe']}, {made['training']['epochs']} epochs, "
        f"{made['workers']} workers, seed {made['training']['seed']}"
    )
    title = f"audiocnn on {features.corpus.rsplit('/', 1)[-1]}"
    return write_report(to, results, features, title, made_with)


def print_report(summary: dict[str, Any], to: str) -> None:
    """The report as a table, and where its page is."""
    display.step("report: accuracy of whole clips, each tested once by a model that never saw it")
    rows = [
        [f"fold {row['fold']}", str(row["clips"]), f"{100 * row['accuracy']:.1f} %"]
        for row in summary["folds"]
    ]
    if summary["accuracy_std"] is not None:
        mean = f"{100 * summary['accuracy_mean']:.1f} ± {100 * summary['accuracy_std']:.1f} %"
        rows.append(["mean ± sd", str(summary["clips"]), mean])
    display.table(["", "clips", "accuracy"], rows)
    display.say(f"report -> {display.short(to)}/report.html")
