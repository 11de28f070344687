"""The options of each verb. The command line is generated from them. Imports no torch, no ray.

The docstrings of classes and fields are the texts of `audiocnn VERB --help`.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from audiocnn.config import AudioLimits, FeatureConfig, ModelConfig, TrainConfig, require
from pipelines import recipes

Recipe = Literal["demo", "esc10", "esc50"]
Format = Literal["csv", "jsonl", "raven", "audacity", "label-studio"]


StorageOptions = Annotated[
    dict[str, Any],
    tyro.conf.arg(
        help="Options for access to storage, as JSON: fsspec's options for each protocol, for "
        'example {"s3": {"endpoint_url": "http://127.0.0.1:8333"}}. Keys are safer in AWS_* '
        "variables or a profile, which are used unless keys are given here.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Ingest:
    """Turn a labelled corpus into log-mel features in Parquet files."""

    corpus: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CORPUS")]
    """Corpus to read: one folder for each class, a manifest, or another layout of docs/corpora.md.
    A manifest has the columns uri and label, and optionally fold and source."""
    to: str
    """Folder for the features: a new one, or that of an earlier run, which then continues."""
    recipe: Recipe = "esc10"
    """Named set of defaults; each of them can be changed by its own option."""
    folds: int = 5
    """Number of folds to create, by source and class, if the corpus has no folds; at least 2."""
    workers: int | None = None
    """Number of processes that decode. If not given: one for each CPU of the cluster."""
    dry_run: bool = False
    """Report the content of the corpus and an estimate of the job's result; write nothing."""
    retry_failed: bool = False
    """Retry clips that failed in an earlier run."""
    overwrite: bool = False
    """Delete the features in the folder and start again."""
    storage_options: StorageOptions = field(default_factory=dict, repr=False)
    feature: FeatureConfig = field(default_factory=lambda: recipes.esc10().feature)
    limits: AudioLimits = field(default_factory=AudioLimits)

    def __post_init__(self) -> None:
        require(self.folds >= 2, "folds must be at least 2")
        require(self.workers is None or self.workers >= 1, "workers must be at least 1")


@dataclass(frozen=True, kw_only=True)
class _Training:
    features: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FEATURES")]
    """Folder of features that `audiocnn ingest` wrote."""
    recipe: Recipe = "esc10"
    """Named set of defaults; each of them can be changed by its own option."""
    workers: int | tuple[int, int] = 2
    """Number of training processes (DDP ranks).
    Two numbers, MIN MAX: as many as the cluster has room for."""
    gpu: bool = False
    """Give each worker a GPU. If not given: workers train on CPUs."""
    data: Literal["auto", "memory", "stream"] = "auto"
    """How workers get the features.
    memory: each holds them; stream: they are read in each epoch; auto: memory up to --memory-gb."""
    memory_gb: float = 4.0
    """Size of features, in GB, up to which --data auto holds them in the memory of each worker.
    Larger features are streamed, and are not checked for leaks."""
    allow_leaks: bool = False
    """Skip the check for a source or sound in two folds. Tests may then score too high."""
    checkpoint_s: float = 15.0
    """Minimum seconds between checkpoints; 0: as often as possible.
    They are written in the background."""
    max_failures: int = 3
    """How many times training restarts from its last checkpoint after losing a worker; 0: never."""
    overwrite: bool = False
    """Delete the results in the output folder and start again."""
    storage_options: StorageOptions = field(default_factory=dict, repr=False)
    feature: FeatureConfig = field(default_factory=lambda: recipes.esc10().feature)
    """The whole front end. These options must equal those of `audiocnn ingest`, which made the
    features; a difference is refused."""
    model: ModelConfig = field(default_factory=lambda: recipes.esc10().model)
    training: TrainConfig = field(default_factory=lambda: recipes.esc10().training)

    def __post_init__(self) -> None:
        fewest, most = self.workers_range
        require(1 <= fewest <= most, "workers must be at least 1, and MIN not above MAX")
        batch = self.training.batch_size
        require(
            2 * most <= batch,
            f"--batch-size {batch} leaves each of --workers {most} less than two windows, too few "
            f"for batch norm: raise it to {2 * most}, or take {batch // 2} workers",
        )
        require(self.checkpoint_s >= 0, "checkpoint_s must not be negative")
        require(self.max_failures >= 0, "max_failures must not be negative")

    @property
    def workers_range(self) -> tuple[int, int]:
        """Fewest and most workers; they differ only in elastic training."""
        return (self.workers, self.workers) if isinstance(self.workers, int) else self.workers


@dataclass(frozen=True, kw_only=True)
class Train(_Training):
    """Train a model on features and write it as a bundle."""

    to: str
    """Folder for the bundle: a new one, or that of an unfinished run, which then continues."""
    test_fold: int | None = None
    """Fold to keep out of training and test once, at the end. If not given: no test."""
    validation_fold: int | None = None
    """Fold to keep out of training and evaluate after every epoch.
    The best epoch is kept. If not given: the last one is kept."""
    calibration: str | None = None
    """Folder of a report that `audiocnn evaluate` wrote. The bundle gets the report's calibration.
    If not given: scores are calibrated only if there is a validation fold."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.test_fold is None or self.test_fold != self.validation_fold,
            "test_fold and validation_fold must be different folds",
        )
        require(
            self.calibration is None or (self.test_fold, self.validation_fold) == (None, None),
            "calibration is for a model of all folds: give no test_fold and no validation_fold, "
            "because the calibration was fitted on them",
        )


@dataclass(frozen=True, kw_only=True)
class Evaluate(_Training):
    """Cross-validate: test each fold with a model trained on the other folds; write a report."""

    to: str
    """Folder for the report and the bundles: a new one, or that of an earlier run.
    These folds and seeds are added to those of the earlier run."""
    folds: tuple[int, ...] | None = None
    """Folds to test. If not given: all folds."""
    workers: int | tuple[int, int] = 1
    """Number of training processes (DDP ranks) for each fold.
    Folds run side by side if the cluster has room."""
    seeds: int = 1
    """Number of models for each fold. Their seeds are --seed, --seed + 1, and so on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.seeds >= 1, "seeds must be at least 1")
        folds = self.folds or ()
        require(len(set(folds)) == len(folds), "folds names a fold twice: name each fold once")


@dataclass(frozen=True, kw_only=True)
class Label:
    """Label every recording of a bucket with a bundle."""

    bucket: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="BUCKET")]
    """Bucket or folder that holds the recordings."""
    bundle: str
    """Bundle that `audiocnn train` wrote."""
    to: str
    """Folder for the labels: a new one, or that of an earlier run, which then continues."""
    hop_s: float | None = None
    """Seconds from the start of one window to the start of the next.
    If not given: as in the bundle."""
    top_k: int = 3
    """Number of classes to store for each window, the best first."""
    formats: tuple[Format, ...] = ()
    """Formats, besides Parquet, in which the events are written."""
    embeddings: bool = False
    """Also store the pooled features of each window.
    `audiocnn similar` needs them, and `audiocnn review` uses them."""
    workers: int | None = None
    """Number of workers. Each decodes and, without --gpu, scores recordings on one CPU.
    If not given: one for each CPU of the cluster."""
    gpu: bool = False
    """Run the models on GPUs, in processes of their own."""
    gpus_per_model: float = 1.0
    """Share of a GPU for each model: 0.25 puts four models on one GPU.
    Above 1, it must be a whole number."""
    models: int | None = None
    """Number of models on GPUs. If not given: as many as fit on the GPUs of the cluster."""
    dry_run: bool = False
    """Report the content of the bucket and the expected time to label it; write nothing."""
    retry_failed: bool = False
    """Retry recordings that failed in an earlier run."""
    new_version: bool = False
    """Keep labels of another bundle or of other options.
    The new labels go to a subfolder version-N."""
    overwrite: bool = False
    """Delete the labels in the folder and start again. Subfolders version-N stay."""
    storage_options: StorageOptions = field(default_factory=dict, repr=False)
    limits: AudioLimits = field(default_factory=AudioLimits)

    def __post_init__(self) -> None:
        require(self.top_k >= 1, "top_k must be at least 1")
        share = self.gpus_per_model
        require(share >= 0.01, "gpus_per_model must be at least 0.01")
        require(share < 1 or share == int(share), "gpus_per_model above 1 must be a whole number")
        require(
            self.gpu or (share == 1 and self.models is None),
            "models and gpus_per_model are for models on GPUs: give gpu too",
        )
        require(self.models is None or self.models >= 1, "models must be at least 1")
        require(
            not (self.new_version and self.overwrite),
            "new_version keeps the existing labels, and overwrite deletes them: give only one",
        )
        require(self.hop_s is None or self.hop_s > 0, "hop_s must be above 0")
        require(self.workers is None or self.workers >= 1, "workers must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Run all steps on one machine: corpus, features, training, report, labelled bucket."""

    corpus: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[CORPUS]")] = "synthetic"
    """`synthetic` (generated), `esc50` (downloaded, 600 MB), or your own corpus (path or URI)."""
    to: str = "demo"
    """Folder for all results, on this machine: a new one, or that of an earlier demo."""
    recipe: Recipe | None = None
    """Recipe to train with.
    If not given: `demo` for the synthetic corpus, `esc10` for others."""


@dataclass(frozen=True, kw_only=True)
class Submit:
    """Run another verb as a job of a Ray cluster; print its log and exit with its exit code."""

    command: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="VERB ...")]
    """Verb to run and its options, written as without submit."""
    address: str | None = None
    """URL of the cluster's dashboard.
    If not given: RAY_API_SERVER_ADDRESS, or http://127.0.0.1:8265 without that."""
    env: tuple[str, ...] = ()
    """Names of environment variables to pass on to the job.
    Secret keys are better set on the cluster."""
    code: bool = True
    """Send the code of this checkout, if audiocnn runs from one.
    Otherwise the job runs the code that is installed on the cluster."""
    detach: bool = False
    """Return once the job is submitted, without following its log."""


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Check this installation. Print one line for each check, and how to fix each problem."""

    uri: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[URI]")] = ""
    """Bucket or folder to list and read as one more check. If not given: no such check."""
    mend: bool = False
    """First delete torchaudio's compiled extension if torch is a build without CUDA."""
    storage_options: StorageOptions = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class Similar:
    """Find the windows of a labelled bucket that sound most like a clip."""

    labels: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="LABELS")]
    """Folder of labels that `audiocnn label --embeddings` wrote."""
    to_clip: str
    """Recording to compare with. If it has several windows, the nearest one counts."""
    count: int = 10
    """Number of windows to find."""
    bundle: str | None = None
    """Bundle that made the labels; needed only if it was moved since."""
    to: str | None = None
    """CSV file for the result. If not given: the result is only printed."""
    overwrite: bool = False
    """Replace the CSV file if it exists."""
    storage_options: StorageOptions = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        require(self.count >= 1, "count must be at least 1")
        require(self.to is None or self.to.endswith(".csv"), "to must end in .csv")


@dataclass(frozen=True, kw_only=True)
class Review:
    """Pick the windows of a labelled bucket that a person should listen to."""

    labels: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="LABELS")]
    """Folder of labels that `audiocnn label` wrote."""
    to: str
    """New folder for the sounds, the page and review.csv."""
    count: int = 100
    """Number of windows to pick, at most 9999."""
    bundle: str | None = None
    """Bundle that made the labels; needed only if it was moved since."""
    overwrite: bool = False
    """Replace an earlier review in the folder.
    A review.csv with answers is kept as review.csv.kept-N."""
    storage_options: StorageOptions = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        require(1 <= self.count <= 9_999, "count must be within 1 and 9999")
