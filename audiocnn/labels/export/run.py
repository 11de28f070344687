"""Events -> files that other programs open: CSV, JSON Lines, Raven, Audacity, Label Studio.

Names of recordings and classes are somebody else's: none of them runs as a formula, breaks a line
or a tag, or leads out of the folder. Parquet and JSON Lines alone have every name exactly as it is.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack

from audiocnn import storage
from audiocnn.corpus.file_list import FileList, Told
from audiocnn.errors import ConfigError
from audiocnn.labels.events import Event
from audiocnn.labels.export.base import Add, Target
from audiocnn.labels.export.label_studio import to_label_studio
from audiocnn.labels.export.raven_audacity import to_audacity, to_raven
from audiocnn.labels.export.tables import to_csv, to_jsonl, to_parquet

EXPORTS = "exports.json"
"""The list of what was exported for people: all formats but Parquet."""
_FORMAT = "audiocnn.exports/1"


def export(
    formats: Sequence[str],
    events: Iterable[Event],
    to: str,
    bucket: str,
    *,
    high_hz: float,
    told: Told = lambda path, kept: None,
) -> dict[str, str]:
    """Write events in the formats below the folder `to`; the path there of each format.

    Events come recording by recording, as `events.merged` gives them, and are in memory one at a
    time. Files of all events are placed when all are written; `raven` and `audacity` are folders
    of a file a recording, named as it is below `bucket`, and each is placed when its events are
    over. `high_hz` is the upper edge of Raven's boxes, which refuses those above half a recording's
    rate.

    What an earlier export wrote in these formats is replaced. A file that somebody changed since,
    or put there, is kept beside, and `told` is called with its path and where it is kept.

    Raises ConfigError for a format that is not in `FORMATS`, StorageError.
    """
    for name in formats:
        if name not in _WRITERS:
            raise ConfigError(f"no format {name!r} to export: choose from {', '.join(FORMATS)}")
    to = storage.absolute(to)
    files = FileList(to, EXPORTS, told)
    target = Target(files=files, to=to, bucket=storage.absolute(bucket), high_hz=high_hz)
    chosen = {name: _WRITERS[name] for name in formats}
    with ExitStack() as stack:
        adds = [stack.enter_context(writer(target)) for _, writer in chosen.values()]
        for event in events:
            for add in adds:
                add(event)
    files.finish((path for path, _ in chosen.values()), format=_FORMAT)
    return {name: path for name, (path, _) in chosen.items()}


def clear_exports(to: str, told: Told) -> None:
    """Remove what `export` wrote below a folder; `told` is called as by `export`."""
    files = FileList(to, EXPORTS, told)
    files.clear()
    files.finish((), format=_FORMAT)


_WRITERS: dict[str, tuple[str, Callable[[Target], AbstractContextManager[Add]]]] = {
    "parquet": ("events.parquet", to_parquet),
    "csv": ("events.csv", to_csv),
    "jsonl": ("events.jsonl", to_jsonl),
    "raven": ("raven", to_raven),
    "audacity": ("audacity", to_audacity),
    "label-studio": ("label_studio.json", to_label_studio),
}
"""By format: the path that it writes, and what writes it there."""
FORMATS: tuple[str, ...] = tuple(_WRITERS)
