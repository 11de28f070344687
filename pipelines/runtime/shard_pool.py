"""A long list of files through a pool of workers, shard by shard, with a ledger.

A shard is a part of the list. A worker turns it into one Parquet file, written whole or not at
all, and answers with a small ledger: only names go in and only ledgers come out, so the bulk
never crosses Ray's object store, and a shard that is run twice writes the same file.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, cast

import ray.data
from ray.data import ActorPoolStrategy

from audiocnn import storage
from audiocnn.errors import AudioCNNError
from pipelines.runtime import errors
from pipelines.runtime.metrics import meters

_SHARD_BYTES = 1 << 30
_SHARDS_A_WORKER = 8
_MOST_BLOCKS = 2_048
"""Ray Data keeps some kilobytes of each; one holds several shards where there are more."""

Ledger = dict[str, Any]


class ShardWorker(Protocol):
    """A class of which each process of the pool makes one."""

    def run(self, index: int, shard: Any) -> Ledger:
        """Do a shard: write its file, and say what became of it."""


class _Stage:
    """What Ray Data calls: rows of (index, shard as JSON) to ledgers as JSON."""

    def __init__(
        self,
        kind: type[ShardWorker],
        arguments: dict[str, Any],
        storage_options: dict[str, dict[str, Any]],
    ) -> None:
        storage.configure(storage_options)
        # Raised by the first row: of what a constructor raises, Ray keeps the text alone.
        self.error: AudioCNNError | None = None
        try:
            self.worker = kind(**arguments)
        except AudioCNNError as error:
            self.error = error

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        return {"ledger": json.dumps(self.worker.run(row["index"], json.loads(row["shard"])))}


def deal(items: list[dict[str, Any]], workers: int) -> list[list[dict[str, Any]]]:
    """Consecutive items as shards: by their number, and by their `size` in bytes where it is known.

    Enough of them to share out evenly and to show progress, few enough to be few files; what is
    lost with a worker is a shard at most.
    """
    most = min(256, max(4, len(items) // (_SHARDS_A_WORKER * workers)))
    shards: list[list[dict[str, Any]]] = []
    held = 0
    for item in items:
        size = item.get("size") or 0
        if not shards or len(shards[-1]) == most or held + size > _SHARD_BYTES:
            shards.append([])
            held = 0
        shards[-1].append(item)
        held += size
    return shards


def run_shards(
    kind: type[ShardWorker],
    arguments: dict[str, Any],
    shards: Sequence[Any],
    *,
    verb: str,
    workers: int,
    at_once: int = 1,
) -> Iterator[Ledger]:
    """The ledgers of all shards, each as soon as it is done.

    A shard is whatever tells a worker, as JSON, what to do; JSON, not Arrow, for the fields of
    items differ. A worker is at `at_once` of them, in a thread each. Workers reach storage as this
    process does. Metrics name the job by its verb.
    """
    rows = [{"index": i, "shard": json.dumps(shard)} for i, shard in enumerate(shards)]
    pool = ActorPoolStrategy(
        size=min(workers, len(shards)),
        max_concurrent_calls_per_actor=at_once,
        # What waits in a worker's queue is done by it alone, however late it gets.
        max_tasks_in_flight_per_actor=max(2, at_once),
        enable_true_multi_threading=at_once > 1,
    )
    done = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS)).map(
        cast(Any, _Stage),
        fn_constructor_args=(kind, arguments, storage.configured()),
        compute=pool,
        num_cpus=1,
    )
    count = meters(verb)
    count.now(running=1, shards_left=len(rows))
    try:
        with errors.user_errors():
            for number, row in enumerate(done.iter_rows(), 1):
                count.now(shards_left=len(rows) - number)
                yield json.loads(row["ledger"])
    finally:
        count.over()
