"""The contenders of `benchmarks/label.py`: each scores recordings with the same model.

Each contender is a whole job in its own process and notes when recordings are finished. The bare
loop uses our decoder and front end. The peers use soundfile and torchaudio, as their users do.
"""

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from audiocnn.model.predictor import Predictor
from benchmarks.contenders import Job, side_by_side, torchaudio_logmel, torchaudio_windows
from benchmarks.progress import Finished

BATCH = 64
"""Windows in a batch of the model, if a contender has batches."""


def bare_loop(job: Job) -> None:
    """The limit: decode, log-mel and forward in one process per core, without Ray or output."""
    side_by_side(job, _bare_worker)


def _bare_worker(job: Job, index: int, ready: Any) -> None:
    predictor = _predictor(job.bundle)
    finished = Finished(job.notes, index)
    paths = job.paths[index :: job.workers]
    kept, held, count = [], [], 0
    ready.wait()
    for at, path in enumerate(paths, 1):
        held += [window.samples for window in predictor.decode(Path(path).read_bytes())]
        count += 1
        if len(held) >= BATCH or at == len(paths):
            kept.append(predictor.predict_windows(held))
            held.clear()
            finished(count)
            count = 0


@cache
def _predictor(bundle: str) -> Predictor:
    """Return the model of this process, which uses one thread."""
    import torch

    torch.set_num_threads(1)
    return Predictor.load(bundle, "cpu")


def _best(predictor: Predictor, scores: np.ndarray) -> list[str]:
    return [predictor.bundle.classes[index] for index in scores.argmax(axis=1)]


def pool(job: Job) -> None:
    """A multiprocessing pool with one task per file, as a first attempt would be."""
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    kept = []
    with context.Pool(job.workers, _predictor, (job.bundle,)) as workers:
        tasks = ((job.bundle, path) for path in job.paths)
        for labels, worker in workers.imap_unordered(_pool_file, tasks):
            kept.append(labels)
            Finished(job.notes, worker)(1)


def _pool_file(task: tuple[str, str]) -> tuple[list[str], int]:
    bundle, path = task
    predictor = _predictor(bundle)
    scores = predictor.scores(torchaudio_logmel(torchaudio_windows(path)).numpy())
    return _best(predictor, scores), os.getpid()


def hf_datasets(job: Job) -> None:
    """Hugging Face datasets as in its guide to batch inference: a batched `map` with processes."""
    import datasets

    datasets.disable_progress_bars()
    Path(job.out).mkdir()
    mapped = datasets.Dataset.from_dict({"path": job.paths}).map(
        _map_batch,
        fn_kwargs={"bundle": job.bundle, "notes": job.notes},
        batched=True,
        batch_size=BATCH,
        num_proc=job.workers,
        cache_file_name=str(Path(job.out) / "cache.arrow"),
    )
    if len(mapped) != len(job.paths):
        raise RuntimeError(f"{len(mapped)} of {len(job.paths)} recordings")


def _map_batch(batch: dict[str, list[str]], bundle: str, notes: str) -> dict[str, Any]:
    labels = _labels(_predictor(bundle), [torchaudio_windows(path) for path in batch["path"]])
    Finished(notes, os.getpid())(len(labels))
    return {"labels": labels}


def _labels(predictor: Predictor, clips: list[Any]) -> list[list[str]]:
    """Return the labels of the windows of each recording; all windows are in one batch."""
    import torch

    best = _best(predictor, predictor.scores(torchaudio_logmel(torch.cat(clips)).numpy()))
    ends = np.cumsum([len(windows) for windows in clips])
    starts = [0, *ends[:-1]]
    return [best[start:end] for start, end in zip(starts, ends, strict=True)]


def naive_ray(job: Job) -> None:
    """Ray Data as in its guide to batch inference: read, preprocess, score in actors.

    Each actor has the model. The pool starts with one actor and may grow to one per core. If it
    started with all actors, no core would be left for the tasks that decode.
    """
    import ray
    import ray.data

    ray.init(address="local", num_cpus=job.workers, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    ray.data.read_binary_files(job.paths, include_paths=True).map_batches(
        _ray_decode, batch_size=BATCH
    ).map_batches(
        _RayModel,
        fn_constructor_args=(job.bundle, job.notes),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=job.workers),
        batch_size=BATCH,
    ).write_parquet(job.out)
    ray.shutdown()


def _ray_decode(batch: dict[str, Any]) -> dict[str, Any]:
    import io

    import torch

    torch.set_num_threads(1)
    clips = [torchaudio_windows(io.BytesIO(data)) for data in batch["bytes"]]
    logmel = torchaudio_logmel(torch.cat(clips)).numpy()
    paths = np.repeat(batch["path"], [len(windows) for windows in clips])
    first = np.concatenate([np.arange(len(windows)) == 0 for windows in clips])
    return {"path": paths, "first": first, "logmel": logmel}


class _RayModel:
    def __init__(self, bundle: str, notes: str) -> None:
        self.predictor = _predictor(bundle)
        self.finished = Finished(notes, os.getpid())

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        labels = _best(self.predictor, self.predictor.scores(batch["logmel"]))
        self.finished(int(batch["first"].sum()))
        return {"path": batch["path"], "label": labels}


CONTENDERS = {
    "bare_loop": bare_loop,
    "pool": pool,
    "hf_datasets": hf_datasets,
    "naive_ray": naive_ray,
}


def main() -> None:
    """Run the contender that the command line names: NAME JOB.json."""
    CONTENDERS[sys.argv[1]](Job.read(Path(sys.argv[2])))
