"""Export events to files of other programs: CSV, JSON Lines, Raven, Audacity, Label Studio.

Names of recordings and classes are untrusted input: no name can run as a formula, break a line or
a tag, or lead out of the folder. Only Parquet and JSON Lines keep every name unchanged.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack

from audiocnn import storage
from audiocnn.corpus.file_list import FileList, OnKept
from audiocnn.errors import ConfigError
from audiocnn.labels.events import Event
from audiocnn.labels.export.base import Add, Target
from audiocnn.labels.export.label_studio import to_label_studio
from audiocnn.labels.export.raven_audacity import to_audacity, to_raven
from audiocnn.labels.export.tables import to_csv, to_jsonl, to_parquet

EXPORTS = "exports.json"
"""Name of the list of exported files, those of all formats except Parquet."""
_FORMAT = "audiocnn.exports/1"


def export(
    formats: Sequence[str],
    events: Iterable[Event],
    to: str,
    bucket: str,
    *,
    high_hz: float,
    on_kept: OnKept = lambda path, kept: None,
) -> dict[str, str]:
    """Write events in these formats below the folder `to`; return the path there of each format.

    Events must come recording by recording, as `events.merged` yields them; one is in memory. A
    file with all events is put in place when all are written. `raven` and `audacity` are folders
    with one file per recording, named like its path below `bucket`; each file is put in place after
    its last event. `high_hz` is the upper edge of Raven's selections, in Hz: Raven refuses
    selections above half of a recording's sample rate.

    Files of an earlier export in these formats are replaced. A file there that somebody changed or
    added is copied first, and `on_kept` is called with its path and the path of the copy.

    Raises ConfigError for a format that is not in `FORMATS`, StorageError.
    """
    for name in formats:
        if name not in _WRITERS:
            raise ConfigError(f"no format {name!r} to export: choose from {', '.join(FORMATS)}")
    to = storage.absolute(to)
    files = FileList(to, EXPORTS, on_kept)
    target = Target(files=files, to=to, bucket=storage.absolute(bucket), high_hz=high_hz)
    chosen = {name: _WRITERS[name] for name in formats}
    with ExitStack() as stack:
        adds = [stack.enter_context(writer(target)) for _, writer in chosen.values()]
        for event in events:
            for add in adds:
                add(event)
    files.finish((path for path, _ in chosen.values()), format=_FORMAT)
    return {name: path for name, (path, _) in chosen.items()}


def clear_exports(to: str, on_kept: OnKept) -> None:
    """Remove the files that `export` listed in `EXPORTS`; `on_kept` is called as by `export`."""
    files = FileList(to, EXPORTS, on_kept)
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
"""By format: the path of its file or folder, and its writer."""
FORMATS: tuple[str, ...] = tuple(_WRITERS)
