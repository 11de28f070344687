"""A worker of the labelling pool: it decodes, and scores with its own model or one on a GPU."""

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from audiocnn import storage
from audiocnn.config import FeatureConfig
from audiocnn.errors import ConfigError
from audiocnn.features.extractor import Extractor
from audiocnn.labels.label_set import is_current, part_name
from audiocnn.labels.labeller import Labeller, Scorer, Scores
from audiocnn.labels.shard_list import read_shard
from audiocnn.model.bundle import Bundle
from audiocnn.model.predictor import Predictor
from audiocnn.storage.machine import keep_freed_memory
from pipelines.label.gpu_models import ModelPool
from pipelines.options import Label
from pipelines.runtime.metrics import job_metrics

_FRONT_ENDS = 2
"""Extractors of a worker: windows of one are scored while the other reads and decodes."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Data about the job that every worker needs."""

    to: str
    listing_id: str
    manifest: str
    feature: FeatureConfig
    """The bundle's feature config, with the hop of the options."""
    bundle: str
    """Fingerprint of the bundle; a bundle with another one is refused."""
    options: Label


class LabelWorker:
    """Shards -> parts of labels; several shards at once, each in its own thread."""

    def __init__(self, work: Work, models: list[Any]) -> None:
        torch.set_num_threads(1)
        keep_freed_memory()
        self.work = work
        self._lock = threading.Lock()
        self._idle: queue.SimpleQueue[Extractor] = queue.SimpleQueue()
        for _ in range(_FRONT_ENDS):  # their processes start while the bundle is read
            self._idle.put(Extractor(work.feature, work.options.limits, storage.configured()))
        self.bundle = Bundle.read(work.options.bundle, work.bundle)
        embeddings = work.options.embeddings
        self.own = None if models else Scorer(Predictor(self.bundle), embeddings=embeddings)
        self.models = ModelPool(models)

    def run(self, index: int, shard: int) -> dict[str, int]:
        """Label a shard and write its part; return the numbers of recordings and of failed ones.

        Raises ConfigError if another run of the same labels has begun, and AudioCNNError if the
        store is out of reach or the part cannot be written.
        """
        began = time.monotonic()
        work, options = self.work, self.work.options
        entries = read_shard(work.manifest, shard)
        name = part_name(work.listing_id, shard)
        with storage.atomic_path(storage.join(work.to, name)) as path:
            with self._extractor() as extractor:
                labeller = Labeller(
                    self.bundle, extractor, self._judge, options.top_k,
                    embeddings=options.embeddings,
                )  # fmt: skip
                ledger = labeller.part(entries, path, name)
            if not is_current(work.to, work.listing_id):
                raise ConfigError(f"--to {work.to}: another run into this folder has started")
        count = job_metrics("label")
        count.recordings(ledger.labelled, ledger.failed, ledger.windows)
        count.step("shard", time.monotonic() - began)
        return {"done": ledger.labelled + ledger.failed, "failed": ledger.failed}

    def _judge(self, logmel: np.ndarray) -> Scores:
        began = time.monotonic()
        if self.own is None:
            judged = self.models.score(logmel)
        else:
            with self._lock:  # a worker has one core
                judged = self.own.score(logmel)
        count = job_metrics("label")
        count.batch(len(logmel))
        count.step("score", time.monotonic() - began)
        return judged

    @contextmanager
    def _extractor(self) -> Iterator[Extractor]:
        """Yield an extractor that no other thread uses within the block."""
        extractor = self._idle.get()
        try:
            yield extractor
        finally:
            self._idle.put(extractor)
