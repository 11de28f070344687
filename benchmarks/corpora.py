"""Corpora of any size for benchmarks: real recordings many times over, on disk and in S3."""

import csv
import shutil
from itertools import cycle, islice
from pathlib import Path

from audiocnn.corpus.read import read_corpus


def many(original: str, to: Path, clips: int) -> Path:
    """A corpus of `clips` clips in ESC-50's layout, at `to`: those of `original` over and over.

    Each recording lies there once and has a hard link for each of its clips, so that all of
    them stay in the page cache. By name, as jobs sort them, a recording comes again only after
    all others: side by side, copies would be compressed to nothing in the features.
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
    """The paths of a corpus's clips, in order."""
    return sorted(str(path) for path in (corpus / "audio").iterdir())


def warm(corpus: Path) -> None:
    """Read every recording once, so that it lies in the page cache."""
    seen: set[int] = set()
    for path in (corpus / "audio").iterdir():
        inode = path.stat().st_ino
        if inode not in seen:
            path.read_bytes()
            seen.add(inode)
