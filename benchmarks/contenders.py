"""The contenders of `benchmarks/ingest.py`: each converts recordings to log-mels.

Each contender is a whole job in its own process. All contenders cut windows by the same rules,
convert log-mels to float16, and note when clips are finished.
"""

import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from audiocnn.config import FeatureConfig
from audiocnn.features.part import schema, tensor_array
from benchmarks.processes import run
from benchmarks.progress import Finished

_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class Job:
    """The task of a contender."""

    paths: list[str]
    workers: int
    out: str
    """Output folder, for contenders that write; it does not exist yet."""
    notes: str
    """Folder for the notes of `Finished`."""
    bundle: str = ""
    """Path of the model's bundle, for contenders that label."""

    def write(self, path: Path) -> None:
        """Write the job to a file for `read`."""
        path.write_text(json.dumps(asdict(self)))

    @staticmethod
    def read(path: Path) -> "Job":
        """Read a job that `write` wrote."""
        return Job(**json.loads(path.read_text()))

    def run(
        self,
        name: str,
        environment: dict[str, str],
        cores: set[int],
        module: str = __name__,
        python: str = sys.executable,
    ) -> float:
        """Run a contender of a module and delete its output; return its wall time in seconds."""
        file = Path(f"{self.notes}.json")
        self.write(file)
        # Import the module: some contenders cannot send functions of __main__ to their workers.
        command = [python, "-c", f"from {module} import main; main()", name, str(file)]
        offline = {"HF_HOME": self.out, "HF_HUB_OFFLINE": "1"}
        try:
            return run(command, offline | environment, cores)
        finally:
            shutil.rmtree(self.out, ignore_errors=True)


FEATURE = FeatureConfig()
"""The front end of the recipe esc50: 22.05 kHz, 5 s, 128 mels."""

LOGMEL = pa.schema([schema(FEATURE).field("logmel")])


def bare_kernel(job: Job) -> None:
    """The limit: our decoder and front end, one process per core; results are dropped."""
    _bare(job, write=False)


def written_kernel(job: Job) -> None:
    """The bare kernel, and one Parquet file per process: the least work of a job."""
    _bare(job, write=True)


def _bare(job: Job, *, write: bool) -> None:
    side_by_side(job, partial(_bare_worker, write=write))


def side_by_side(job: Job, worker: Callable[[Job, int, Any], None]) -> None:
    """Run `worker(job, index, barrier)` in `job.workers` processes. Raises RuntimeError."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(job.workers)
    processes = [
        context.Process(target=worker, args=(job, index, ready)) for index in range(job.workers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError("a process of the bare kernel or loop failed")


def _bare_worker(job: Job, index: int, ready: Any, *, write: bool) -> None:
    import torch

    torch.set_num_threads(1)
    kernel = _kernel()
    writer = None
    if write:
        Path(job.out).mkdir(exist_ok=True)
        path = f"{job.out}/{index}.parquet"
        writer = pq.ParquetWriter(path, LOGMEL, compression="zstd", use_dictionary=False)
    finished = Finished(job.notes, index)
    paths = job.paths[index :: job.workers]
    ready.wait()
    for start in range(0, len(paths), _AT_ONCE):
        group = paths[start : start + _AT_ONCE]
        logmels = [kernel(Path(path).read_bytes()) for path in group]
        if writer is not None:
            writer.write_table(pa.table([tensor_array(np.concatenate(logmels), FEATURE)], LOGMEL))
        finished(len(group))
    if writer is not None:
        writer.close()


@cache
def _kernel() -> Any:
    """Return our front end as a function: bytes -> [windows, n_mels, n_frames] float16."""
    from audiocnn.audio.decode import AudioLimits, windows
    from audiocnn.features.logmel import LogMel

    logmel, limits = LogMel(FEATURE), AudioLimits()

    def run(data: bytes) -> np.ndarray:
        found = [window.samples for window in windows(data, FEATURE, limits)]
        return logmel(found).astype(np.float16)

    return run


def dataloader(job: Job) -> None:
    """A torch DataLoader with soundfile and torchaudio; the results are kept in a list."""
    import torch
    from torch.utils.data import DataLoader

    torch.set_num_threads(1)
    loader: DataLoader[Any] = DataLoader(
        _Recordings(job.paths),  # type: ignore[arg-type]  # a sequence is enough
        batch_size=_AT_ONCE,
        num_workers=job.workers,
        collate_fn=list,
    )
    kept = []
    for index, batch in enumerate(loader):
        kept.append(batch)
        Finished(job.notes, index % job.workers)(len(batch))


class _Recordings:
    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        return torchaudio_logmel(torchaudio_windows(self.paths[index])).half()


def torchaudio_windows(file: str | BinaryIO) -> Any:
    """Return [windows, window_samples] of a recording, by soundfile and torchaudio's sinc."""
    import torch

    samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    mono = torch.from_numpy(samples.mean(axis=1))
    return torch.stack([torch.from_numpy(w) for w in cut(_resampler(rate)(mono).numpy())])


@cache
def _resampler(rate: int) -> Any:
    import torchaudio.transforms

    return torchaudio.transforms.Resample(rate, FEATURE.sample_rate)


@cache
def _torchaudio_mel() -> Any:
    import torch
    import torchaudio.transforms

    return torch.nn.Sequential(
        torchaudio.transforms.MelSpectrogram(
            sample_rate=FEATURE.sample_rate,
            n_fft=FEATURE.n_fft,
            hop_length=FEATURE.hop_length,
            n_mels=FEATURE.n_mels,
        ),
        torchaudio.transforms.AmplitudeToDB(),
    )


def torchaudio_logmel(windows: Any) -> Any:
    """Convert [windows, window_samples] to [windows, n_mels, n_frames] dB with torchaudio."""
    import torch

    with torch.inference_mode():
        return _torchaudio_mel()(windows)


def cut(samples: np.ndarray) -> list[np.ndarray]:
    """Return the windows of a recording, cut and padded as by `audiocnn.audio.decode.windows`."""
    size, least = FEATURE.window_samples, FEATURE.min_tail_s * FEATURE.sample_rate
    starts = range(0, max(1, len(samples)), size)
    found = [samples[start : start + size] for start in starts]
    return [np.pad(w, (0, size - len(w))) for i, w in enumerate(found) if i == 0 or len(w) >= least]


def hf_datasets(job: Job) -> None:
    """Hugging Face datasets: `map` with several processes, which write its Arrow cache."""
    import datasets
    import torch

    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    Path(job.out).mkdir()
    shape = (FEATURE.n_mels, FEATURE.n_frames)
    mapped = datasets.Dataset.from_dict({"path": job.paths}).map(
        _map_batch,
        fn_kwargs={"notes": job.notes},
        batched=True,
        batch_size=_AT_ONCE,
        num_proc=job.workers,
        remove_columns=["path"],
        features=datasets.Features({"logmel": datasets.Array2D(shape, "float16")}),
        cache_file_name=str(Path(job.out) / "cache.arrow"),
    )
    if len(mapped) < len(job.paths):
        raise RuntimeError(f"{len(mapped)} windows of {len(job.paths)} clips")


def _map_batch(batch: dict[str, list[str]], notes: str) -> dict[str, list[np.ndarray]]:
    found = [torchaudio_logmel(torchaudio_windows(path)).half().numpy() for path in batch["path"]]
    Finished(notes, os.getpid())(len(found))
    return {"logmel": [window for clip in found for window in clip]}


def librosa_joblib(job: Job) -> None:
    """Librosa in joblib's processes; the results are kept in a list."""
    from joblib import Parallel, delayed

    run = Parallel(n_jobs=job.workers, return_as="generator_unordered")
    kept = []
    for logmels, worker in run(delayed(_librosa_clip)(path) for path in job.paths):
        kept.append(logmels)
        Finished(job.notes, worker)(1)


def _librosa_clip(path: str) -> tuple[np.ndarray, int]:
    return librosa_logmel(librosa_windows(path)).astype(np.float16), os.getpid()


def librosa_windows(path: str) -> np.ndarray:
    """Return [windows, window_samples] of a recording, by librosa's own loader."""
    import librosa

    samples, _ = librosa.load(path, sr=FEATURE.sample_rate)
    return np.stack(cut(samples))


def librosa_logmel(windows: np.ndarray) -> np.ndarray:
    """Convert [windows, window_samples] to [windows, n_mels, n_frames] dB, with our options."""
    import librosa

    power = librosa.feature.melspectrogram(
        y=windows,
        sr=FEATURE.sample_rate,
        n_fft=FEATURE.n_fft,
        hop_length=FEATURE.hop_length,
        n_mels=FEATURE.n_mels,
        htk=True,
        norm=None,
        pad_mode="reflect",
    )
    decibels: np.ndarray = librosa.power_to_db(power, top_db=None)
    return decibels


def naive_ray(job: Job) -> None:
    """Our front end in Ray Data, used as on its first page; Ray moves bytes and log-mels."""
    import ray
    import ray.data

    ray.init(address="local", num_cpus=job.workers, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    ray.data.read_binary_files(job.paths, include_paths=True).map_batches(
        partial(_ray_batch, notes=job.notes), batch_size=_AT_ONCE
    ).write_parquet(job.out)
    ray.shutdown()


def _ray_batch(batch: dict[str, Any], notes: str) -> dict[str, Any]:
    rows = [
        (path, logmel)
        for path, data in zip(batch["path"], batch["bytes"], strict=True)
        for logmel in _kernel()(data)
    ]
    Finished(notes, os.getpid())(len(batch["path"]))
    paths, logmels = zip(*rows, strict=True)
    return {"path": list(paths), "logmel": np.stack(logmels)}


CONTENDERS = {
    "bare_kernel": bare_kernel,
    "written_kernel": written_kernel,
    "dataloader": dataloader,
    "hf_datasets": hf_datasets,
    "librosa_joblib": librosa_joblib,
    "naive_ray": naive_ray,
}


def main() -> None:
    """Run the contender that the command line names: NAME JOB.json."""
    CONTENDERS[sys.argv[1]](Job.read(Path(sys.argv[2])))
