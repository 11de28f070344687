"""Read WebDataset corpora: tar shards, indexed from their headers and labels only."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from audiocnn import storage
from audiocnn.audio.decode import AUDIO_SUFFIXES
from audiocnn.audio.recording import Archive
from audiocnn.corpus import tar_index
from audiocnn.corpus.clips import Clip, Rejected, entry
from audiocnn.errors import UnreadableError
from audiocnn.storage.listing import StoredFile

_KEY = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)
_LABELS = ("cls", "json")
_TARS_AT_ONCE = 32


class WebDataset:
    """Tar shards with `KEY.wav` (or .flac, .ogg, .mp3) and `KEY.cls` or `KEY.json`.

    A key is a member's name, with its folders, up to the first dot after them. `KEY.cls` holds the
    class as text. `KEY.json` has `label` (or `class`, or `category`), and may have `fold` and
    `source`.
    """

    name = "webdataset"
    looks = "tar shards with KEY.wav and KEY.cls or KEY.json"

    def matches(self, uri: str, files: list[StoredFile]) -> bool:
        """Return whether there are tar files."""
        return any(file.path.lower().endswith(".tar") for file in files)

    def clips(self, uri: str, files: list[StoredFile]) -> Iterator[Clip | Rejected]:
        """Yield one clip for each sound with a label, and rejected entries. Raises StorageError."""
        shards = [file for file in files if file.path.lower().endswith(".tar")]
        with ThreadPoolExecutor(_TARS_AT_ONCE) as pool:
            for entries in pool.map(_shard, shards):
                yield from entries


@dataclass(kw_only=True)
class _Sample:
    """The members of a tar that share a key."""

    sounds: list[tar_index.Member] = field(default_factory=list)
    labels: dict[str, tar_index.Member] = field(default_factory=dict)


def _shard(tar: StoredFile) -> list[Clip | Rejected]:
    uri = storage.printable(tar.uri)
    try:
        index = tar_index.read_index(tar, lambda name: _split(name)[1] in _LABELS)
    except UnreadableError as error:  # Other errors end the job: the corpus would be incomplete.
        return [Rejected(uri=uri, reason=error.reason, detail=str(error))]
    entries: list[Clip | Rejected] = []
    if index.damage:
        entries.append(Rejected(uri=uri, reason=index.damage[0], detail=index.damage[1]))
    for key, sample in _samples(index.members).items():
        entries += _entries(tar, key, sample)
    return entries


def _split(name: str) -> tuple[str, str]:
    """Return the key and the extension of a member's name; both empty if it has no extension."""
    match = _KEY.fullmatch(name)
    return (match[1], match[2].lower()) if match else ("", "")


def _samples(members: list[tar_index.Member]) -> dict[str, _Sample]:
    """Group members by key, without those that are neither sound nor label, like transcripts."""
    samples: dict[str, _Sample] = defaultdict(_Sample)
    for member in members:
        key, extension = _split(member.name)
        if extension in _LABELS:
            samples[key].labels.setdefault(extension, member)
        elif f".{extension}".endswith(AUDIO_SUFFIXES):
            samples[key].sounds.append(member)
    return samples


def _entries(tar: StoredFile, key: str, sample: _Sample) -> Iterator[Clip | Rejected]:
    try:
        label, fold, source = _said(sample.labels)
        wrong = "" if sample.sounds else "it has a label but no sound"
    except (ValueError, RecursionError) as error:
        wrong = f"no label could be read: {error}"
    if wrong:
        for member in sample.sounds or list(sample.labels.values())[:1]:
            uri = storage.printable(storage.join(tar.uri, member.name))
            yield Rejected(uri=uri, reason="label", detail=wrong)
        return
    for member in sample.sounds:
        yield entry(
            storage.join(tar.uri, member.name),
            storage.join(tar.path, member.name),
            label,
            fold=fold,
            source=source or (storage.join(tar.path, key) if len(sample.sounds) > 1 else ""),
            size=member.size,
            version=tar.version,
            archive=Archive(uri=tar.uri, offset=member.offset, size=member.size),
        )


def _said(labels: dict[str, tar_index.Member]) -> tuple[str, str, str]:
    """Return label, fold and source; empty if missing. Raises ValueError, RecursionError."""
    if not labels:
        raise ValueError("there is no .cls and no .json with its key")
    texts = {}
    for extension, member in labels.items():
        if member.content is None:
            raise ValueError(f"its .{extension} has {member.size} bytes, which is too long")
        texts[extension] = member.content.decode()
    plain = json.loads(texts.get("json", "{}"))
    if not isinstance(plain, dict):
        raise ValueError("its .json is not an object")
    label = next((plain[name] for name in ("label", "class", "category") if name in plain), None)
    values = (texts.get("cls", label), plain.get("fold"), plain.get("source"))
    if any(isinstance(value, dict | list) for value in values):
        raise ValueError("its .json has a label, fold or source that is neither text nor number")
    label, fold, source = ("" if value is None else str(value) for value in values)
    return label, fold, source
