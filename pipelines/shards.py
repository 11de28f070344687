"""A long list of files through a pool of workers, shard by shard, with a ledger.

A shard is a part of the list. A worker turns it into one Parquet file, written whole or not at
all, and answers with a small ledger: only URIs go in and only ledgers come out, so the bulk
never crosses Ray's object store, and a shard that is run twice writes the same file.
"""

import json
from collections.abc import Iterator
from typing import Any, Protocol, cast

import ray.data
from ray.data import ActorPoolStrategy

from audiocnn import storage
from pipelines import session

_SHARD_BYTES = 1 << 30
_SHARDS_A_WORKER = 8

Ledger = dict[str, Any]


class ShardWorker(Protocol):
    """A class of which each process of the pool makes one."""

    def run(self, index: int, items: list[dict[str, Any]]) -> Ledger:
        """Do a shard: write its file, and say what became of each item."""


class _Stage:
    """What Ray Data calls: rows of (index, items as JSON) to ledgers as JSON."""

    def __init__(
        self,
        kind: type[ShardWorker],
        arguments: dict[str, Any],
        storage_options: dict[str, dict[str, Any]],
    ) -> None:
        storage.configure(storage_options)
        self.worker = kind(**arguments)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"ledger": json.dumps(self.worker.run(row["index"], json.loads(row["items"])))}


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
    shards: list[list[dict[str, Any]]],
    *,
    workers: int,
    num_gpus: float = 0,
) -> Iterator[Ledger]:
    """The ledgers of all shards, each as soon as it is done.

    Workers reach storage as this process does. JSON, not Arrow, carries items and ledgers: their
    fields differ from row to row.
    """
    rows = [{"index": i, "items": json.dumps(items)} for i, items in enumerate(shards)]
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        cast(Any, _Stage),
        fn_constructor_args=(kind, arguments, storage.configured()),
        compute=ActorPoolStrategy(size=min(workers, len(shards))),
        num_cpus=1,
        num_gpus=num_gpus or None,
    )
    with session.user_errors():
        for row in done.iter_rows():
            yield json.loads(row["ledger"])
