"""`audiocnn evaluate`: k-fold cross-validation, folds side by side, and its report."""

from dataclasses import fields, replace
from typing import Any

from audiocnn import bundle, outputs, storage
from audiocnn.calibration import Calibration
from audiocnn.errors import FormatError, MismatchError
from audiocnn.featureset import FeatureSet
from audiocnn.predictions import Predictions, calibrate, sha256_of
from audiocnn.report import write_report
from pipelines import display, session
from pipelines.job import Job, plan
from pipelines.options import Evaluate, Train
from pipelines.train import fit, refuse_leaks, refuse_other_run


def evaluate(options: Evaluate) -> dict[str, Any]:
    """Train a model for each fold on all others, test it once, and write the report.

    As many folds side by side as the cluster has room for. A fold whose bundle is there already,
    from the same options, is not trained again; one that was stopped goes on. Each bundle is
    calibrated by the clips of the folds that it was not tested on. Returns the content of
    `report.json`. Raises AudioCNNError as `train` does.
    """
    storage.configure(options.storage_options)
    to = outputs.claim(options.to, "report.json", overwrite=options.overwrite)
    features = FeatureSet.read(options.features)
    folds = list(options.folds or sorted(features.folds))
    features.require_folds(folds)
    if len(features.folds) < 2:
        raise MismatchError(f"{features.uri}: one fold alone leaves nothing to train on")
    jobs = _jobs(options, features, folds, to)
    todo = [job for job in jobs if options.overwrite or not _is_done(job)]
    refuse_leaks(features, options)
    cluster = session.connect()
    cluster.require(options.workers_range[0], gpu=options.gpu)
    if options.overwrite:
        outputs.clear(to, "report.json", ("report.html", "folds/*"))
    slots = cluster.groups(options.workers_range[1], gpu=options.gpu)
    display.step(_headline(options, folds, min(slots, max(1, len(todo)))))
    if len(todo) < len(jobs):
        display.say(f"{len(jobs) - len(todo)} bundles are there already")
    fit({_name(job): job for job in todo}, slots)
    results, calibrations = _calibrated(jobs)
    summary = _write(results, calibrations, features, to, jobs[0].to)
    outputs.remove_unfinished(to)
    print_report(summary, to)
    return summary


def _jobs(options: Evaluate, features: FeatureSet, folds: list[int], to: str) -> list[Job]:
    """A job for each seed and fold."""
    first = options.training.seed
    jobs = []
    for seed in range(first, first + options.seeds):
        for fold in folds:
            name = str(fold) if seed == first else f"{fold}.seed{seed}"
            shared = {
                f.name: getattr(options, f.name)
                for f in fields(options)
                if f.name not in ("folds", "seeds")
            }
            shared["training"] = replace(options.training, seed=seed)
            where = storage.join(to, "folds", name)
            asked = Train(**{**shared, "to": where, "test_fold": fold})
            jobs.append(replace(plan(asked, features), to=where))
    return jobs


def _is_done(job: Job) -> bool:
    """Whether a fold's bundle is there. Raises MismatchError for one of other options."""
    if not storage.exists(storage.join(job.to, "bundle.json")):
        refuse_other_run(job)
        return False
    differ = job.differs_from(bundle.read_summary(job.to)["provenance"])
    if differ:
        raise MismatchError(
            f"{job.to}: made with another {differ}; name another --to, or --overwrite"
        )
    return True


def _headline(options: Evaluate, folds: list[int], slots: int) -> str:
    seeds = f" x {options.seeds} seeds" if options.seeds > 1 else ""
    beside = f", {slots} side by side" if slots > 1 else ""
    return (
        f"evaluate {options.recipe}: {len(folds)} folds{seeds}{beside}, "
        f"{options.training.epochs} epochs each"
    )


def _name(job: Job) -> str:
    return f"fold {job.to.rsplit('/', 1)[-1]}"


def _calibrated(jobs: list[Job]) -> tuple[list[Predictions], list[Calibration]]:
    """What each bundle said of its fold, and its calibration by the other folds' clips."""
    results = [predictions_of(job.to, job.options.training.seed) for job in jobs]
    classes = jobs[0].features.classes
    calibrations = []
    for index, (job, result) in enumerate(zip(jobs, results, strict=True)):
        others = [r for r in results if r.fold != result.fold and r.seed == result.seed]
        calibrations.append(calibrate(others, classes))
        fingerprint = bundle.recalibrate(job.to, calibrations[-1])
        results[index] = replace(result, bundle=fingerprint)
    return results, calibrations


def predictions_of(uri: str, seed: int) -> Predictions:
    """What a bundle said of the fold it was tested on. Raises FormatError for changed ones."""
    table = storage.read_parquet(storage.join(uri, "predictions.parquet"))
    summary = bundle.read_summary(uri)
    test = summary["metrics"]["test"]
    if sha256_of(table) != test["predictions_sha256"]:
        raise FormatError(f"{uri}: predictions.parquet is not the one of its bundle.json")
    return Predictions.of_table(table, fold=test["fold"], seed=seed, bundle=summary["fingerprint"])


def report_on(uri: str, features: FeatureSet, to: str) -> dict[str, Any]:
    """The report of one bundle that was tested on a fold."""
    made = bundle.read_summary(uri)
    result = predictions_of(uri, made["provenance"]["training"]["seed"])
    calibration = Calibration.from_json(made["calibration"])
    return _write([result], [calibration], features, to, uri)


def _write(
    results: list[Predictions],
    calibrations: list[Calibration],
    features: FeatureSet,
    to: str,
    example: str,
) -> dict[str, Any]:
    """Write the report of models that were made as the bundle at `example` was."""
    summary = bundle.read_summary(example)
    made, epoch = summary["provenance"], summary["metrics"]["kept_epoch"]
    seeds = sorted({result.seed for result in results})
    epochs = made["training"]["epochs"]
    chosen = (
        f"the last of {epochs} epochs was used, so none was chosen by the tested fold"
        if epoch == "last"
        else f"epoch {epoch} of {epochs} was used, the best on fold {made['validation_fold']}"
    )
    made_with = (
        f"Recipe {made['recipe']}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}, "
        f"workers {made['workers']}; {chosen}"
    )
    title = f"audiocnn on {features.corpus.rsplit('/', 1)[-1]}"
    return write_report(to, results, calibrations, features, title=title, made_with=made_with)


def print_report(summary: dict[str, Any], to: str) -> None:
    """The report as a table, and where its page is."""
    display.step("report: accuracy of whole clips, each tested once by a model that never saw it")
    several = len(summary["seeds"]) > 1
    rows = [
        [
            f"fold {row['fold']}" + (f", seed {row['seed']}" if several else ""),
            str(row["clips"]),
            f"{100 * row['accuracy']:.1f} %",
        ]
        for row in summary["folds"]
    ]
    for name, deviation in (("folds", "accuracy_std"), ("seeds", "accuracy_std_seeds")):
        if summary[deviation] is not None:
            mean = f"{100 * summary['accuracy_mean']:.1f} ± {100 * summary[deviation]:.1f} %"
            rows.append([f"mean ± sd over {name}", str(summary["clips"]), mean])
    display.table(["", "clips", "accuracy"], rows)
    found = summary["calibration"]
    before, after = (found[k]["expected_calibration_error"] for k in ("before", "after"))
    display.say(
        f"expected calibration error {100 * before:.1f} %, calibrated {100 * after:.1f} %; "
        f"{100 * found['answered']:.0f} % answered, "
        f"{100 * (found['accuracy_of_answers'] or 0):.1f} % of the answers right"
    )
    display.say(f"report -> {display.short(to)}/report.html")
