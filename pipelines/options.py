"""The options of each verb: what the command line is generated from. Imports no torch, no ray."""

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
        help="How storage is reached: fsspec's options by protocol, as JSON, for example "
        '{"s3": {"endpoint_url": "http://127.0.0.1:8333"}}. Keys are better kept in AWS_* '
        "variables or a profile: they are used where none are given.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Ingest:
    """Turn a labelled corpus into Parquet log-mel features."""

    corpus: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CORPUS")]
    """One folder a class, a manifest of uri,label[,fold,source], or a layout of docs/corpora.md."""
    to: str
    """Where the features go: a new folder."""
    recipe: Recipe = "esc10"
    """Named set of options; each can be changed by its own flag."""
    folds: int = 5
    """Folds to deal, by source and class, where the corpus has none."""
    workers: int | None = None
    """Processes that decode; one a CPU of the cluster when not given."""
    dry_run: bool = False
    """Say what is there and what would become of it; write nothing."""
    retry_failed: bool = False
    """Read clips again that failed in an earlier run."""
    overwrite: bool = False
    """Replace what is there."""
    storage_options: StorageOptions = field(default_factory=dict, repr=False)
    feature: FeatureConfig = field(default_factory=lambda: recipes.esc10().feature)
    limits: AudioLimits = field(default_factory=AudioLimits)

    def __post_init__(self) -> None:
        require(self.folds >= 2, "folds must be at least 2")
        require(self.workers is None or self.workers >= 1, "workers must be at least 1")


@dataclass(frozen=True, kw_only=True)
class _Training:
    features: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FEATURES")]
    """Features that `audiocnn ingest` wrote."""
    recipe: Recipe = "esc10"
    """Named set of options; each can be changed by its own flag."""
    workers: int | tuple[int, int] = 2
    """Training processes (DDP ranks); two numbers, MIN MAX: as many as there is room for."""
    gpu: bool = False
    """Give each worker a GPU."""
    data: Literal["auto", "memory", "stream"] = "auto"
    """Hold the features in each worker's memory, or stream them; auto: by memory_gb."""
    memory_gb: float = 4.0
    """Largest features that auto holds in each worker's memory."""
    allow_leaks: bool = False
    """Train and test though a source or a sound is in two folds."""
    checkpoint_s: float = 15.0
    """Least seconds from one checkpoint to the next; they are written behind the training."""
    max_failures: int = 3
    """Lost workers after which training goes on from its last checkpoint by itself."""
    overwrite: bool = False
    """Replace what is there."""
    storage_options: StorageOptions = field(default_factory=dict, repr=False)
    feature: FeatureConfig = field(default_factory=lambda: recipes.esc10().feature)
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
        """Fewest and most workers: the same number but for an elastic training."""
        return (self.workers, self.workers) if isinstance(self.workers, int) else self.workers


@dataclass(frozen=True, kw_only=True)
class Train(_Training):
    """Train a model on features and write it as a bundle."""

    to: str
    """Where the bundle goes: a new folder."""
    test_fold: int | None = None
    """Fold kept out of training and tested once, at the end; none: train on everything."""
    validation_fold: int | None = None
    """Fold kept out of training and evaluated after every epoch; the best epoch is kept."""
    calibration: str | None = None
    """Report of `audiocnn evaluate` that says how far scores are to be believed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.test_fold is None or self.test_fold != self.validation_fold,
            "test_fold and validation_fold must be two folds",
        )
        require(
            self.calibration is None or (self.test_fold, self.validation_fold) == (None, None),
            "calibration is for a model of all folds: it was fitted on the folds it would be "
            "tested on",
        )


@dataclass(frozen=True, kw_only=True)
class Evaluate(_Training):
    """Cross-validate: train on all folds but one, test on that one, for each; write a report."""

    to: str
    """Where the report and the folds' bundles go."""
    folds: tuple[int, ...] | None = None
    """Folds to test; all of them when not given."""
    workers: int | tuple[int, int] = 1
    """Training processes (DDP ranks) of each fold; folds run side by side where there is room."""
    seeds: int = 1
    """Models for each fold, of that many seeds from --seed on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.seeds >= 1, "seeds must be at least 1")
        folds = self.folds or ()
        require(len(set(folds)) == len(folds), "folds names a fold twice: each is tested once")


@dataclass(frozen=True, kw_only=True)
class Label:
    """Label every recording of a bucket with a bundle."""

    bucket: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="BUCKET")]
    """Folder or bucket of recordings."""
    bundle: str
    """Bundle that `audiocnn train` wrote."""
    to: str
    """Where the labels go: a new folder, or one of an earlier run, which goes on."""
    hop_s: float | None = None
    """Seconds from one window to the next; as the bundle's features when not given."""
    top_k: int = 3
    """Classes kept for each window."""
    formats: tuple[Format, ...] = ()
    """Formats, besides Parquet, that the events are written in."""
    embeddings: bool = False
    """Keep the pooled features of each window too: `audiocnn similar` and `review` use them."""
    workers: int | None = None
    """Processes that decode, and label where there is no GPU; one a CPU of the cluster when not
    given."""
    gpu: bool = False
    """Have the models on GPUs, apart from the processes that decode."""
    gpus_per_model: float = 1.0
    """Share of a GPU that each model gets."""
    models: int | None = None
    """Models on GPUs; as many as the GPUs that are there have room for when not given."""
    dry_run: bool = False
    """Say what is there and what labelling it would take; write nothing."""
    retry_failed: bool = False
    """Read recordings again that failed in an earlier run."""
    new_version: bool = False
    """Label anew beside labels of another bundle or other options, in a folder version-N."""
    overwrite: bool = False
    """Replace what is there."""
    storage_options: StorageOptions = field(default_factory=dict, repr=False)
    limits: AudioLimits = field(default_factory=AudioLimits)

    def __post_init__(self) -> None:
        require(self.top_k >= 1, "top_k must be at least 1")
        share = self.gpus_per_model
        require(share >= 0.01, "gpus_per_model must be at least 0.01")
        require(share < 1 or share == int(share), "gpus_per_model above 1 must be a whole number")
        require(
            self.gpu or (share == 1 and self.models is None),
            "models and gpus_per_model are of models on GPUs: give gpu too",
        )
        require(self.models is None or self.models >= 1, "models must be at least 1")
        require(
            not (self.new_version and self.overwrite),
            "new_version keeps what is there, and overwrite does not: give one of them",
        )
        require(self.hop_s is None or self.hop_s > 0, "hop_s must be above 0")
        require(self.workers is None or self.workers >= 1, "workers must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The whole line on one machine: corpus, features, training, report, labelled bucket."""

    corpus: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[CORPUS]")] = "synthetic"
    """`synthetic` (generated), `esc50` (downloaded), or a corpus of your own."""
    to: str = "demo"
    """Where everything goes: a new folder, or an earlier demo's."""
    recipe: Recipe | None = None
    """Options to train with; `demo` for the synthetic corpus, else `esc10`."""


@dataclass(frozen=True, kw_only=True)
class Submit:
    """Run another verb as a job of a Ray cluster, with its log here and its exit code."""

    command: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="VERB ...")]
    """The verb and its options, as they are without submit."""
    address: str | None = None
    """Where the cluster's dashboard answers; RAY_API_SERVER_ADDRESS when not given, then
    http://127.0.0.1:8265."""
    env: tuple[str, ...] = ()
    """Names of variables of this shell that the job is given; keys are better kept on the
    cluster."""
    code: bool = True
    """Send this checkout's code, where there is one; else the cluster's own is run."""
    detach: bool = False
    """Leave the job to itself once it is submitted."""


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Check this installation: a line a check, with the mend."""

    uri: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[URI]")] = ""
    """A bucket or folder that should be reachable."""
    mend: bool = False
    """Remove torchaudio's compiled extension where it does not fit a CPU build of torch."""
    storage_options: StorageOptions = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class Similar:
    """Find the windows of a labelled bucket that sound most like a clip."""

    labels: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="LABELS")]
    """Labels that `audiocnn label --embeddings` wrote."""
    to_clip: str
    """Recording to compare with, of one window or of many."""
    count: int = 10
    """Windows to find."""
    bundle: str | None = None
    """Bundle that the labels were made with, where it is not in its place any more."""
    to: str | None = None
    """CSV file to write them to as well."""
    overwrite: bool = False
    """Replace that file."""
    storage_options: StorageOptions = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        require(self.count >= 1, "count must be at least 1")
        require(self.to is None or self.to.endswith(".csv"), "to must end in .csv")


@dataclass(frozen=True, kw_only=True)
class Review:
    """Pick the windows of a labelled bucket that a person should listen to."""

    labels: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="LABELS")]
    """Labels that `audiocnn label` wrote."""
    to: str
    """Where the sounds, the page and review.csv go: a new folder."""
    count: int = 100
    """Windows to pick."""
    bundle: str | None = None
    """Bundle that the labels were made with, where it is not in its place any more."""
    overwrite: bool = False
    """Replace a review that is there, with the answers in its review.csv."""
    storage_options: StorageOptions = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        require(1 <= self.count <= 9_999, "count must be within 1 and 9999")
