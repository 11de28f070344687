"""`audiocnn evaluate`: k-fold cross-validation, with folds trained side by side, and its report."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from audiocnn import storage
from audiocnn.errors import FormatError, MismatchError
from audiocnn.evaluation.predictions import Predictions, calibrate, sha256_of
from audiocnn.evaluation.report import percent, write_report
from audiocnn.evaluation.summary import silence
from audiocnn.features.feature_set import FeatureSet
from audiocnn.model import bundle
from audiocnn.model.calibration import Calibration
from audiocnn.storage import output_folder
from audiocnn.storage.output_folder import REPORT, Output
from pipelines.options import Evaluate, Train
from pipelines.runtime import session, terminal
from pipelines.train.job import (
    begin,
    claim,
    clear,
    doubts,
    refuse_leaks,
    refuse_other_run,
    train_all,
    warn_unseen,
)
from pipelines.train.plan import TrainPlan, plan

_FORMAT = "audiocnn.evaluate/1"


def evaluate(options: Evaluate) -> dict[str, Any]:
    """Train a model for each fold on all others, test it once, and write the report.

    The cluster trains as many folds side by side as it has room for. A fold with a finished bundle
    of the same options is not trained again, and a stopped one continues. New folds and seeds are
    added to an existing report. Each bundle is calibrated on the test predictions of the other
    folds. Returns the content of `report.json`. Raises AudioCNNError as `train` does.
    """
    storage.configure(options.storage_options)
    output = output_folder.claim(options.to, REPORT)
    features = FeatureSet.read(options.features)
    models = _models(options, features, output)
    jobs = [_job(options, features, models, fold, seed) for fold, seed in models]
    todo = [job for job in jobs if options.overwrite or not _is_done(job)]
    folders = _claimed(todo, output)
    refuse_leaks(features, options)
    cluster = session.connect()
    cluster.require(options.workers_range[0], gpu=options.gpu)
    _begin(output, models, todo, folders)
    slots = cluster.groups(options.workers_range[1], gpu=options.gpu)
    terminal.step(_headline(options, models, min(slots, max(1, len(todo)))))
    for job in {job.options.test_fold: job for job in todo}.values():
        warn_unseen(job)
    if len(todo) < len(jobs):
        terminal.say(f"{len(jobs) - len(todo)} bundles exist already")
    train_all({_name(job): job for job in todo}, slots)
    for job in todo:
        doubt = doubts(bundle.read_summary(job.to)["metrics"])
        if doubt:
            terminal.warn(f"{_name(job)}: {doubt}")
    results, calibrations = _calibrated(jobs)
    summary = _write(results, calibrations, features, output.uri, jobs[0].to)
    output_folder.remove_temporary(output.uri)
    print_report(summary, output.uri)
    return summary


@dataclass(frozen=True, kw_only=True)
class Models:
    """The models of an evaluation: one for each fold and seed."""

    to: str
    """URI of the folder of the report."""
    folds: list[int]
    seeds: list[int]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((fold, seed) for seed in self.seeds for fold in self.folds)

    def folder(self, fold: int, seed: int) -> str:
        """Return a bundle's folder: `folds/FOLD` for the first seed, else `folds/FOLD.seedSEED`."""
        name = str(fold) if seed == self.seeds[0] else f"{fold}.seed{seed}"
        return storage.join(self.to, "folds", name)

    def folders(self) -> set[str]:
        """Return the folders of all bundles."""
        return {self.folder(fold, seed) for fold, seed in self}

    def and_more(self, others: "Models") -> "Models":
        """Return models for all folds and all seeds of both."""
        return replace(
            self,
            folds=sorted({*self.folds, *others.folds}),
            seeds=list(dict.fromkeys([*self.seeds, *others.seeds])),
        )

    def are_in(self, report: dict[str, Any]) -> bool:
        """Return whether a report has every one of these models."""
        return set(self) <= {(row["fold"], row.get("seed")) for row in report.get("folds", ())}


def _models(options: Evaluate, features: FeatureSet, output: Output) -> Models:
    """Return the requested models, and those that an earlier run in this folder requested.

    Raises ConfigError if the report has all of them already, MismatchError if the features lack one
    of the folds or have only one fold.
    """
    models = Models(
        to=output.uri,
        folds=sorted(set(options.folds or features.folds)),
        seeds=[options.training.seed + number for number in range(options.seeds)],
    )
    if not options.overwrite:
        asked, models = models, _earlier(output).and_more(models)
        if models.are_in(output.notes.get("report.json", {})):
            output.require_unfinished()
        if set(models) != set(asked):
            terminal.say(
                f"with the folds and seeds of an earlier run: folds "
                f"{', '.join(map(str, models.folds))}; {len(models.seeds)} seeds"
            )
    features.require_folds(models.folds)
    if len(features.folds) < 2:
        raise MismatchError(f"{features.uri}: only one fold; evaluate needs at least 2")
    return models


def _earlier(output: Output) -> Models:
    """Return the models that an earlier run requested, from its notes. Raises FormatError."""
    note = output.notes.get("job.json")
    if note is not None:
        folds, seeds = note["folds"], note["seeds"]
        if not all(isinstance(number, int) for number in (*folds, *seeds)):  # they name folders
            raise FormatError(f"{output.uri}/job.json: damaged: folds or seeds are not numbers")
        return Models(to=output.uri, folds=folds, seeds=seeds)
    report = output.notes.get("report.json", {})  # earlier versions wrote no job.json
    return Models(
        to=output.uri,
        folds=sorted({row["fold"] for row in report.get("folds", ())}),
        seeds=[row["seed"] for row in report.get("seeds", ())],
    )


def _job(
    options: Evaluate, features: FeatureSet, models: Models, fold: int, seed: int
) -> TrainPlan:
    """Return the training plan of a fold and a seed."""
    shared = {
        f.name: getattr(options, f.name)
        for f in fields(options)
        if f.name not in ("folds", "seeds")
    }
    shared["training"] = replace(options.training, seed=seed)
    where = models.folder(fold, seed)
    asked = Train(**{**shared, "to": where, "test_fold": fold})
    return replace(plan(asked, features), to=where)


def _claimed(todo: list[TrainPlan], output: Output) -> dict[str, Output]:
    """Claim the folders of models to train, and of all models that an earlier run requested.

    Returns them by URI. Raises ConfigError if one of them holds files of something else.
    """
    folders = _earlier(output).folders().union(job.to for job in todo)
    return {folder: claim(folder) for folder in folders}


def _begin(
    output: Output, models: Models, todo: list[TrainPlan], folders: dict[str, Output]
) -> None:
    """Delete results that this run replaces, and note the folds and seeds that it requests."""
    output.clear()
    for job in todo:
        begin(job, folders[job.to])
    for folder in folders.keys() - models.folders():
        clear(folders[folder])
        storage.remove(storage.join(folder, "job.json"))
    note = {"format": _FORMAT, "folds": models.folds, "seeds": models.seeds}
    storage.write_json(storage.join(output.uri, "job.json"), note)


def _is_done(job: TrainPlan) -> bool:
    """Return whether a fold's bundle is finished.

    Raises MismatchError if the bundle, or an unfinished run, has other options.
    """
    if not storage.exists(storage.join(job.to, "bundle.json")):
        refuse_other_run(job)
        return False
    differ = job.differs_from(bundle.read_summary(job.to)["provenance"])
    if differ:
        raise MismatchError(
            f"{job.to}: this bundle differs in {differ}; name another --to, or pass --overwrite"
        )
    return True


def _headline(options: Evaluate, models: Models, slots: int) -> str:
    seeds = f" x {len(models.seeds)} seeds" if len(models.seeds) > 1 else ""
    beside = f", {slots} side by side" if slots > 1 else ""
    return (
        f"evaluate {options.recipe}: {len(models.folds)} folds{seeds}{beside}, "
        f"{options.training.epochs} epochs each"
    )


def _name(job: TrainPlan) -> str:
    return f"fold {job.to.rsplit('/', 1)[-1]}"


def _calibrated(jobs: list[TrainPlan]) -> tuple[list[Predictions], list[Calibration]]:
    """Calibrate each bundle on the other folds. Return all predictions and calibrations."""
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
    """Read a bundle's predictions for its test fold. Raises FormatError if they were changed."""
    table = storage.read_parquet(storage.join(uri, "predictions.parquet"))
    summary = bundle.read_summary(uri)
    test = summary["metrics"]["test"]
    if sha256_of(table) != test["predictions_sha256"]:
        raise FormatError(f"{uri}: predictions.parquet does not match bundle.json")
    return Predictions.of_table(table, fold=test["fold"], seed=seed, bundle=summary["fingerprint"])


def report_on(uri: str, features: FeatureSet, to: str) -> dict[str, Any]:
    """Write the report of one bundle that was tested on a fold. Return the report's content."""
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
    """Write the report of models that differ from the `example` bundle only in fold and seed."""
    summary = bundle.read_summary(example)
    made, epoch = summary["provenance"], summary["metrics"]["kept_epoch"]
    seeds = sorted({result.seed for result in results})
    epochs = made["training"]["epochs"]
    chosen = (
        f"the last of {epochs} epochs was used: this choice does not depend on the tested fold"
        if epoch == "last"
        else f"epoch {epoch} of {epochs} was used, the best on fold {made['validation_fold']}"
    )
    made_with = (
        f"Recipe {made['recipe']}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}, "
        f"workers {made['workers']}; {chosen}"
    )
    title = f"audiocnn on {features.name}"
    return write_report(to, results, calibrations, features, title=title, made_with=made_with)


def print_report(summary: dict[str, Any], to: str) -> None:
    """Print the report as a table, and the path of its page."""
    terminal.step("report: accuracy of whole clips, tested by models that were not trained on them")
    several = len(summary["seeds"]) > 1
    rows = [
        [
            f"fold {row['fold']}" + (f", seed {row['seed']}" if several else ""),
            str(row["clips"]),
            percent(row["accuracy"]),
        ]
        for row in summary["folds"]
    ]
    for name, deviation in (("folds", "accuracy_std"), ("seeds", "accuracy_std_seeds")):
        if summary[deviation] is not None:
            mean = f"{100 * summary['accuracy_mean']:.1f} ± {100 * summary[deviation]:.1f} %"
            rows.append([f"mean ± sd over {name}", str(summary["clips"]), mean])
    terminal.table(["", "clips", "accuracy"], rows)
    if summary["silent"]:
        terminal.warn(silence(summary))
    if summary["clips"]:
        _say_scores(summary["calibration"])
    terminal.say(f"report -> {terminal.short(to)}/report.html")


def _say_scores(found: dict[str, Any]) -> None:
    """Print the calibration error of a report's scores, and the share of clips answered."""
    before, after = (found[k]["expected_calibration_error"] for k in ("before", "after"))
    error = f"expected calibration error {100 * before:.1f} %"
    if found["calibrated"]:
        terminal.say(
            f"{error}, {100 * after:.1f} % after calibration; {100 * found['answered']:.0f} % of "
            f"clips answered, {100 * (found['accuracy_of_answers'] or 0):.1f} % of answers right"
        )
    else:
        terminal.say(f"{error}; not calibrated: calibration needs another fold")
