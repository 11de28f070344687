"""Real parts of features and of labels, as if an earlier run had left them."""

import os
from pathlib import Path

from audiocnn.audio.recording import Recording
from audiocnn.errors import AudioError
from audiocnn.features.part import part_name
from audiocnn.features.part_writer import PartWriter
from audiocnn.labels.label_set import part_name as labels_part_name
from audiocnn.labels.part import LabelWriter
from audiocnn.model.bundle import Bundle
from helpers.common import SMALL

_EMPTY = AudioError("empty", "no bytes")


def features_part(to: Path) -> Path:
    """Write a part of features with one clip that failed, and return its path."""
    item = {"clip_id": "a", "uri": "a.wav", "fold": 1, "key": "f00d"}
    path = to / part_name(SMALL, [item])
    path.parent.mkdir(parents=True, exist_ok=True)
    with PartWriter(str(path), SMALL) as writer:
        writer.fail(item, _EMPTY)
        writer.finish()
    return path


def left_behind(path: Path) -> Path:
    """Write an incomplete file with an old date, as if another machine had left it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half of a file")
    os.utime(path, (0, 0))
    return path


def labels_part(to: Path, bundle: Path, listing: str = "0000aaaa") -> Path:
    """Write a part of labels with one recording that failed, and return its path."""
    path = to / labels_part_name(listing, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with LabelWriter(str(path), Bundle.read(str(bundle)), 1) as writer:
        writer.fail(Recording(uri="a.wav"), _EMPTY)
        writer.finish()
    return path
