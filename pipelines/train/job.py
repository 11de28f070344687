"""`audiocnn train`: features -> bundle, with Ray Train and DDP."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

import ray.exceptions
import ray.train
import ray.train.torch
from ray.train import RunConfig, ScalingConfig

from audiocnn import storage
from audiocnn.errors import MismatchError, TrainingError, few
from audiocnn.features import leaks
from audiocnn.features.feature_set import FeatureSet
from audiocnn.model.bundle import Bundle
from audiocnn.storage import output_folder
from audiocnn.storage.output_folder import BUNDLE, Notes, Output
from audiocnn.storage.scratch import Scratch
from audiocnn.training import checkpoint
from pipelines.options import Evaluate, Train
from pipelines.runtime import errors, session, terminal
from pipelines.runtime.metrics import job_metrics
from pipelines.train.gloo import GlooConfig
from pipelines.train.plan import TrainPlan, log_suffix, plan, run_of
from pipelines.train.progress import Channel, Listener
from pipelines.train.worker import train_rank

_T = TypeVar("_T")
_LOGS = "tensorboard/events.out.tfevents.*"


def train(options: Train) -> Bundle:
    """Run the job; return the bundle that it wrote.

    Raises AudioCNNError as `plan` does, and for more workers than the cluster can have, a bundle
    that exists already, an unfinished run with other options, a recording in two folds, or a
    training that cannot continue.
    """
    storage.configure(options.storage_options)
    output = claim(options.to)
    if not options.overwrite:
        output.require_unfinished()
    job = replace(plan(options), to=output.uri)
    refuse_other_run(job)
    terminal.step(_headline(job))
    warn_unseen(job)
    if job.holds_out:
        refuse_leaks(job.features, options)
    session.connect().require(options.workers_range[0], gpu=options.gpu)
    begin(job, output)
    terminal.say(f"TensorBoard: tensorboard --logdir {terminal.short(job.tensorboard)}")
    train_all({"": job})
    bundle = Bundle.read(job.to)
    if test := bundle.metrics.get("test"):
        _say_test(test)
    doubt = doubts(bundle.metrics)
    if doubt:
        terminal.warn(doubt)
    terminal.say(f"bundle {bundle.fingerprint} -> {terminal.short(job.to)}")
    return bundle


def _say_test(test: dict[str, Any]) -> None:
    """Print the accuracy on the test fold, and warn of its clips that contain only silence."""
    if test["accuracy"] is not None:
        terminal.say(
            f"test on fold {test['fold']}: {100 * test['accuracy']:.1f} % of its clips are right"
        )
    if test["silent"]:
        terminal.warn(
            f"{test['silent']} clips of fold {test['fold']} contain only silence: they have no "
            "answer and are not counted"
        )


def claim(to: str) -> Output:
    """Claim the folder of a bundle. Raises ConfigError as `output_folder.claim` does."""
    return output_folder.claim(
        to,
        BUNDLE,
        {
            "checkpoint.pt": lambda uri, notes: run_of(notes) == (checkpoint.job_of(uri) or ""),
            "predictions.parquet": lambda _, notes: _was_tested(notes),
        },
    )


def _was_tested(notes: Notes) -> bool:
    """Return whether the training that left these notes had a test fold, so wrote predictions."""
    metrics = notes.get("bundle.json", {}).get("metrics", {})
    return "test" in metrics or notes.get("job.json", {}).get("test_fold") is not None


def begin(job: TrainPlan, output: Output) -> None:
    """Remove the files of an earlier training, unless this one resumes from its checkpoint."""
    if job.options.overwrite or not storage.exists(job.checkpoint):
        clear(output)


def clear(output: Output) -> None:
    """Remove a bundle, finished or not, and its TensorBoard logs."""
    output.clear()
    suffix = log_suffix(run_of(output.notes))
    swept = output_folder.sweep(output.uri, _LOGS, lambda path: path.endswith(suffix))
    if swept.others:
        terminal.warn(
            f"{len(swept.others)} logs in {terminal.short(output.uri)}/tensorboard may not be of "
            "this training, and are left there"
        )


def refuse_other_run(job: TrainPlan) -> None:
    """Raise MismatchError if the folder has an unfinished run with other options."""
    note = storage.join(job.to, "job.json")
    if job.options.overwrite or not (storage.exists(note) and storage.exists(job.checkpoint)):
        return
    differ = job.differs_from(storage.read_json(note))
    if differ:
        raise MismatchError(
            f"--to {job.to}: the unfinished run there differs in {differ}; give its options to "
            "continue it, or pass --overwrite to start again"
        )


def warn_unseen(job: TrainPlan) -> None:
    """Warn of classes without a clip in the training folds: the model cannot learn them."""
    if job.unseen:
        folds = ", ".join(map(str, job.train_folds))
        terminal.warn(f"no clip of {few(job.unseen)} is in the training folds ({folds})")


def doubts(metrics: dict[str, Any]) -> str | None:
    """Return a warning if a bundle is less than half as accurate as in training; else None."""
    fit, test = metrics.get("fit"), metrics.get("test")
    if fit is None:  # a bundle of an earlier version
        return None
    trained = f"{100 * fit['training']:.0f} %"
    if fit["kept"] < fit["training"] / 2:
        return (
            f"the kept model is right on {100 * fit['kept']:.0f} % of its training windows, but "
            f"was right on {trained} during training: its weights (--ema-decay) and batch norm's "
            "statistics are averages over too few steps; give more --epochs, or a lower --ema-decay"
        )
    if test and test["accuracy"] is not None and test["accuracy"] < fit["training"] / 2:
        return (
            f"the accuracy on fold {test['fold']} is far below the {trained} on the training "
            "windows: the model overfits, or the fold has other kinds of sounds; use more sources "
            "of each class, or a smaller model"
        )
    return None


def refuse_leaks(features: FeatureSet, options: Train | Evaluate) -> None:
    """Raise CorpusError if a source or a sound is in two folds, and warn if one may be.

    Features that are too large for memory (--memory-gb) are not checked.
    """
    if options.allow_leaks:
        return
    if features.bytes_of(list(features.folds)) > options.memory_gb * 1e9:
        terminal.warn("the features exceed --memory-gb: not checked for a sound in two folds")
        return
    found = leaks.find(features)
    leaks.require_none(features, found)
    if found.near:
        (clip, fold), (other, another) = found.near[0]
        more = " or more" * (len(found.near) >= leaks.MOST_NEAR)
        terminal.warn(
            f"{clip} (fold {fold}) and {other} (fold {another}) look alike, and may be one "
            f"recording ({len(found.near)} such pairs{more})"
        )


def _headline(job: TrainPlan) -> str:
    options, features = job.options, job.features
    clips = sum(sum(features.folds[fold].values()) for fold in job.train_folds)
    tested = "" if options.test_fold is None else f", fold {options.test_fold} kept for the test"
    fewest, most = options.workers_range
    workers = str(most) if fewest == most else f"{fewest} to {most}"
    return (
        f"train {options.recipe}: {clips} clips, {options.training.epochs} epochs, "
        f"{workers} {'GPU' if options.gpu else 'CPU'} worker{'s' * (most > 1)}{tested}"
    )


def train_all(jobs: dict[str, TrainPlan], side_by_side: int = 1) -> None:
    """Train jobs, `side_by_side` at a time. Their names appear in the progress messages.

    If one fails, no other is started; the running ones finish, and then its error is raised.
    """
    if not jobs:
        return
    count = job_metrics("train")
    count.now(running=1)
    try:
        with Listener(
            {name: job.options.training.epochs for name, job in jobs.items()}
        ) as listener:
            in_threads(lambda name: _fit(jobs[name], listener.channel(name)), jobs, side_by_side)
    except KeyboardInterrupt:
        again = terminal.same_command(any(job.options.overwrite for job in jobs.values()))
        raise KeyboardInterrupt(f"run {again} to continue from the last checkpoint") from None
    finally:
        count.over()


def in_threads(work: Callable[[_T], None], items: Iterable[_T], threads: int) -> None:
    """Call `work` with each item, in order, in a number of threads.

    If a call fails, no other is started; the running ones finish, and the first error is raised.
    Ctrl-C interrupts the main thread, which only waits; the others are daemons and end with it.
    """
    waiting, errors = list(items)[::-1], list[BaseException]()

    def go_on() -> None:
        while not errors:
            try:
                item = waiting.pop()
            except IndexError:  # a check before would race: another thread may take the last item
                return
            try:
                work(item)
            except BaseException as error:
                errors.append(error)

    started = [threading.Thread(target=go_on, daemon=True) for _ in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    if errors:
        raise errors[0]


def _fit(job: TrainPlan, channel: Channel) -> None:
    """Train until the bundle is written, with restarts after lost workers and lost nodes.

    Ray Train starts the workers, connects them and detects a lost one. This function decides
    whether to restart, and from which checkpoint: an error of the user must not be retried.
    """
    storage.write_json(storage.join(job.to, "job.json"), job.note)
    again = terminal.same_command(job.options.overwrite)
    for failures in range(job.options.max_failures + 1):
        try:
            with errors.user_errors():
                _fit_once(job, channel)
            storage.remove(job.checkpoint)
            output_folder.remove_temporary(job.to)
            return
        except ray.exceptions.RayActorError as error:
            # No retry here: the resources of its workers stay reserved until this process ends.
            raise TrainingError(
                f"Ray Train's controller process was lost; run {again} to continue from the last "
                "checkpoint"
            ) from error
        except ray.train.TrainingFailedError as error:
            lost = errors.lost_worker(error)
            if lost is None:
                raise
            if failures == job.options.max_failures:
                raise TrainingError(
                    f"{lost}, failure {failures + 1} with --max-failures {failures}: find the "
                    f"cause (out of memory?), then run {again} to continue from the last checkpoint"
                ) from error
            channel.note(f"{lost}: continuing from the last checkpoint")


def _fit_once(job: TrainPlan, channel: Channel) -> None:
    workers: Any = job.options.workers  # in Ray's form: a number, or (fewest, most)
    with Scratch() as folder:
        ray.train.torch.TorchTrainer(
            train_rank,
            train_loop_config={"job": job, "channel": channel},
            torch_config=GlooConfig(),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=job.options.gpu),
            # Ray Train needs a folder for its own checkpoints, although it gets none to store.
            run_config=RunConfig(name=job.fingerprint, storage_path=folder),
        ).fit()
