"""Process a long list of files with a pool of workers, shard by shard.

A shard is a part of the list. A worker turns it into one Parquet file, written whole or not at
all, and returns a ledger, a small JSON object. Workers receive only names and return only ledgers,
so sounds and features never pass through Ray's object store. A shard that runs twice writes the
same file.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, cast

import ray.data
from ray.data import ActorPoolStrategy

from audiocnn import storage
from audiocnn.errors import AudioCNNError
from pipelines.runtime import errors
from pipelines.runtime.metrics import job_metrics

_SHARD_BYTES = 1 << 30
_SHARDS_A_WORKER = 8
_MOST_BLOCKS = 2_048
"""Most blocks of shards: Ray Data keeps some kilobytes for each. With more shards than that, a
block holds several."""

Ledger = dict[str, Any]


class ShardWorker(Protocol):
    """A class that each process of the pool instantiates once."""

    def run(self, index: int, shard: Any) -> Ledger:
        """Process a shard: write its file and return its ledger."""


class _Stage:
    """Callable for Ray Data: maps a row (index, shard as JSON) to a row (ledger as JSON)."""

    def __init__(
        self,
        kind: type[ShardWorker],
        arguments: dict[str, Any],
        storage_options: dict[str, dict[str, Any]],
    ) -> None:
        storage.configure(storage_options)
        # Keep the error and raise it on the first row: Ray preserves only the message, not the
        # type, of an exception from an actor's constructor.
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
    """Split a list into shards of consecutive items.

    A shard is limited in number of items, and in bytes by the items' `size`, where that is known.
    There are enough shards to share them out evenly and to show progress, but few enough to keep
    the number of files small. A lost worker costs one shard at most.
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
    """Yield the ledgers of all shards, each as soon as its shard is done.

    A shard is any JSON value that describes work for a worker. It is not Arrow, because the fields
    of items differ. A worker processes `at_once` shards at a time, each in its own thread. Workers
    use the storage options of this process. `verb` is the job's tag in the metrics.
    """
    rows = [{"index": i, "shard": json.dumps(shard)} for i, shard in enumerate(shards)]
    pool = ActorPoolStrategy(
        size=min(workers, len(shards)),
        max_concurrent_calls_per_actor=at_once,
        # Keep queues short: no other worker takes over a shard that waits in a slow worker's queue.
        max_tasks_in_flight_per_actor=max(2, at_once),
        enable_true_multi_threading=at_once > 1,
    )
    done = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS)).map(
        cast(Any, _Stage),
        fn_constructor_args=(kind, arguments, storage.configured()),
        compute=pool,
        num_cpus=1,
    )
    count = job_metrics(verb)
    count.now(running=1, shards_left=len(rows))
    try:
        with errors.user_errors():
            for number, row in enumerate(done.iter_rows(), 1):
                count.now(shards_left=len(rows) - number)
                yield json.loads(row["ledger"])
    finally:
        count.over()
