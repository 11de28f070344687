"""Corpora of any size for benchmarks: they repeat real recordings."""

import csv
import shutil
from itertools import cycle, islice
from pathlib import Path

from audiocnn.corpus.read import read_corpus


def many(original: str, to: Path, clips: int) -> Path:
    """Write a corpus of `clips` clips to `to`, with the recordings of `original`; return `to`.

    The layout is ESC-50's. Each recording is stored once, and its clips are hard links to it, so
    all recordings stay in the page cache. Jobs sort clips by name, and the names repeat a recording
    only after all others. Otherwise compression would remove almost all repeated log-mels.
    """
    corpus = read_corpus(original)
    once, audio, meta = to / "once", to / "audio", to / "meta"
    for folder in (once, audio, meta):
        folder.mkdir(parents=True)
    rows: list[list[object]] = []
    for index, clip in enumerate(islice(cycle(corpus.clips), clips)):
        number, turn = index % len(corpus.clips), index // len(corpus.clips)
        source = Path(clip.uri)
        kept = once / f"{number}{source.suffix}"
        if turn == 0:
            shutil.copyfile(source, kept)
        name = f"{turn:04d}-{number:04d}{source.suffix}"
        (audio / name).hardlink_to(kept)
        rows.append([name, clip.fold or 1 + number % 5, clip.label, clip.source or number])
    with (meta / "esc50.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("filename", "fold", "category", "src_file"), *rows])
    shutil.rmtree(once)
    return to


def recordings(corpus: Path) -> list[str]:
    """Return the paths of a corpus's clips, sorted."""
    return sorted(str(path) for path in (corpus / "audio").iterdir())


def warm(corpus: Path) -> None:
    """Read every recording once, so that it is in the page cache."""
    seen: set[int] = set()
    for path in (corpus / "audio").iterdir():
        inode = path.stat().st_ino
        if inode not in seen:
            path.read_bytes()
            seen.add(inode)
