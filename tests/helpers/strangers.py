"""Files that no job wrote, but with names like those of a job. No job may change them."""

from pathlib import Path

NAMES = (
    "notes.txt",
    "job.json.bak",
    "features.json.old",
    "failures.parquet.bak",
    "bundle/model.safetensors",
    "checkpoints/checkpoint.pt",
    "parts/part-00000.parquet",
    "parts/part-mine.parquet",
    "parts/deep/part-0000aaaa-000000.parquet",
    "parts/.notes.tmp",
    "parts.old/part-00000.parquet",
    ".notes.tmp",
    "label_studio.backup/annotations.json",
    "label_studio.notes",
    "events.csv.mine",
    "version-notes/summary.json",
    "version-notes/labels.json",
    "version-9/raven/mine.txt",
    "manifest-mine.parquet",
    "raven/mine.txt",
    "raven/deep/mine.selections.txt",
    "audacity/mine.txt",
    "folds/notes/x",
    "folds/notes.txt",
    "folds/99/model.safetensors",
    "tensorboard/events.out.tfevents.1.mine.2.3",
    "tensorboard/deep/events.out.tfevents.1.mine.2.3",
    "clips/mine.wav",
    "clips/12345.wav",
    "clips/deep/0001.wav",
    "bucket.old/0001.wav",
)
"""Paths below an output. No verb writes them, but they look as if one did."""


def plant(folder: Path, names: tuple[str, ...] = NAMES) -> dict[str, bytes]:
    """Write a file under each name. Return the contents by name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{name} is mine".encode())
    return found(folder, names)


def found(folder: Path, names: tuple[str, ...] = NAMES) -> dict[str, bytes]:
    """The contents, by name, of the files that exist under these names."""
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
