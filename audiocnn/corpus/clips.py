"""Labelled corpora: clips, entries that cannot be clips, class order, folds and sources."""

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from audiocnn import storage
from audiocnn.audio.decode import Segment
from audiocnn.audio.recording import Archive, Recording
from audiocnn.config import UNKNOWN
from audiocnn.errors import CorpusError
from audiocnn.storage.listing import StoredFile


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A labelled recording.

    `source` names the original recording that it was cut from: clips of one source share a fold.
    `version` changes if the file's content changes. `version` and `size` (in bytes) are None if
    the file was not listed. If there is an `archive`, the bytes are read from there, and `uri` is
    only a name for users. If there is a `segment`, only this stretch of the recording is the clip.
    """

    clip_id: str
    uri: str
    label: str
    fold: int | None = None
    source: str | None = None
    size: int | None = None
    version: str | None = None
    archive: Archive | None = None
    segment: Segment | None = None

    @property
    def recording(self) -> Recording:
        """The place of its bytes in storage."""
        return Recording(
            uri=self.uri,
            size=self.size,
            archive=self.archive,
            version=self.version,
            segment=self.segment,
        )


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A listed entry that cannot be used; `reason` is a key of `FAILURE_REASONS`.

    `uri` is valid UTF-8: other bytes are escaped.
    """

    uri: str
    reason: str
    detail: str


def rejection_row(rejected: Rejected) -> dict[str, str]:
    """Return the row for the table of failures of an entry that cannot be used."""
    reason = f"{rejected.reason}: {rejected.detail}"
    return {"uri": rejected.uri, "stage": "list", "reason": storage.printable(reason)}


@dataclass(frozen=True, kw_only=True)
class Unreviewed:
    """A clip in a review without a label yet: it is neither a clip of the corpus nor a failure."""

    uri: str


@dataclass(frozen=True)
class Remark:
    """A note on how a corpus was read, if it could also be read in another way."""

    text: str


Entry = Clip | Rejected | Unreviewed | Remark
"""An entry that a layout finds in a corpus."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Clips sorted by `clip_id`, and the sorted class names, in the order that every model uses."""

    uri: str
    layout: str
    clips: tuple[Clip, ...]
    rejected: tuple[Rejected, ...] = ()
    ignored: int = 0
    """Number of files in the folder that are not clips, and of clips that are not reviewed yet."""
    remarks: tuple[str, ...] = ()
    """Notes for users on how the corpus was read."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order used in features, models and labels."""
        return tuple(sorted({clip.label for clip in self.clips}))

    @property
    def folds(self) -> tuple[int, ...]:
        """Fold numbers, sorted."""
        return tuple(sorted({clip.fold for clip in self.clips if clip.fold is not None}))


def entry(
    uri: str,
    clip_id: str,
    label: str,
    *,
    fold: str = "",
    source: str = "",
    size: int | None = None,
    version: str = "",
    archive: Archive | None = None,
    segment: tuple[str, str] = ("", ""),
) -> Clip | Rejected:
    """Return the clip that these texts describe, or a rejected entry with the reason.

    An empty text means none: no fold, no source, no version. `segment` is a start and an end in
    seconds. With it, both times are appended to `clip_id`, and the source is the recording
    (`clip_id` as given) unless `source` is given.
    """
    label, fold = label.strip(), fold.strip()
    number, stretch = _fold(fold), _segment(*segment)
    if stretch:
        source = source or clip_id
        clip_id = f"{clip_id}#t={stretch[0]!r},{stretch[1]!r}"  # See `segment_of`.
    wrong = None
    if not _is_utf8(uri + clip_id) or "\0" in uri:
        wrong = "path", "its name is not UTF-8, or has a NUL in it"
    elif not label:
        wrong = "label", "it has no label"
    elif not _is_utf8(label + source):
        wrong = "label", "its label or its source is not UTF-8"
    elif fold and number is None:
        wrong = "fold", f"{fold!r} is not a whole number from 0 to 2147483647"
    elif any(segment) and not stretch:
        wrong = "segment", f"{segment[0]!r} to {segment[1]!r} is not a time range"
    if wrong:
        return Rejected(uri=storage.printable(uri), reason=wrong[0], detail=wrong[1])
    return Clip(
        clip_id=clip_id,
        uri=uri,
        label=label,
        fold=number,
        source=source or None,
        size=size,
        version=version or None,
        archive=archive,
        segment=stretch,
    )


def _segment(onset_s: str, offset_s: str) -> Segment | None:
    try:
        first, end = float(onset_s), float(offset_s)
    except ValueError:
        return None
    return (first, end) if 0 <= first < end < math.inf else None


def _is_utf8(text: str) -> bool:
    return storage.printable(text) == text


def _fold(text: str) -> int | None:
    try:
        fold = float(text)  # pandas writes 1.0 if another row has no fold.
    except ValueError:
        return None
    return int(fold) if fold.is_integer() and 0 <= fold < 2**31 else None


def segment_of(clip_id: str) -> Segment | None:
    """Return the segment at the end of a clip_id, in the form of W3C's Media Fragments, or None."""
    times = clip_id.rpartition("#t=")[2].split(",") if "#t=" in clip_id else []
    return _segment(times[0], times[1]) if len(times) == 2 else None


def assemble(uri: str, layout: str, entries: Iterable[Entry], files: list[StoredFile]) -> Corpus:
    """Return the checked corpus of these entries; if a clip is listed twice, the first is used.

    `files` are the listed files, to count those that are not clips.

    Raises CorpusError for fewer than two classes, a class with the reserved name UNKNOWN, clips
    with and without folds, or a source in two folds.
    """
    seen: set[str | tuple[str, Segment | None]] = set()
    clips: list[Clip] = []
    rejected: list[Rejected] = []
    remarks: list[str] = []
    ignored = 0
    for item in entries:
        if isinstance(item, Unreviewed):
            ignored += 1
        elif isinstance(item, Remark):
            remarks.append(item.text)
        elif isinstance(item, Rejected):
            rejected.append(item)
        elif seen.isdisjoint(names := (item.clip_id, (item.uri, item.segment))):
            seen.update(names)
            clips.append(item)
        else:
            detail = f"listed again, with the label {item.label!r}"
            rejected.append(Rejected(uri=item.uri, reason="duplicate", detail=detail))
    corpus = Corpus(
        uri=uri,
        layout=layout,
        clips=tuple(sorted(clips, key=lambda clip: clip.clip_id)),
        rejected=tuple(sorted(rejected, key=lambda item: (item.uri, item.reason))),
        ignored=ignored,
        remarks=tuple(remarks),
    )
    _check(corpus)
    return replace(corpus, ignored=ignored + _ignored(corpus, files))


def _ignored(corpus: Corpus, files: list[StoredFile]) -> int:
    """Count listed files that are not clips (accepted or rejected) and contain none."""
    used = sorted([clip.uri for clip in corpus.clips] + [item.uri for item in corpus.rejected])

    def first_from(uri: str) -> str:
        at = bisect_left(used, uri)
        return used[at] if at < len(used) else ""

    uris = (storage.printable(file.uri) for file in files)
    return sum(first_from(u) != u and not first_from(f"{u}/").startswith(f"{u}/") for u in uris)


def _check(corpus: Corpus) -> None:
    if len(corpus.classes) < 2:
        why = ""
        if corpus.rejected:
            first = corpus.rejected[0]
            why = f"; {len(corpus.rejected)} clips cannot be used, for example {first.uri!r}: "
            why += first.detail
        if corpus.ignored:
            why += f"; {corpus.ignored} clips have no label yet"
        raise CorpusError(f"{corpus.uri}: found {len(corpus.classes)} classes, 2 are needed{why}")
    if UNKNOWN in corpus.classes:
        raise CorpusError(
            f"{corpus.uri}: {UNKNOWN!r} cannot be a class, because it is the answer below a "
            "class's threshold; use another name"
        )
    without = [clip.clip_id for clip in corpus.clips if clip.fold is None]
    if without and len(without) < len(corpus.clips):
        raise CorpusError(f"{corpus.uri}: some clips have a fold, but {without[0]!r} has none")
    check_sources(corpus)


def check_sources(corpus: Corpus) -> None:
    """Raise CorpusError if a source is in two folds, as test results would be too optimistic."""
    by_source: dict[str, dict[int | None, str]] = defaultdict(dict)
    for clip in corpus.clips:
        if clip.source is not None:
            by_source[clip.source].setdefault(clip.fold, clip.clip_id)
    for source, folds in by_source.items():
        if len(folds) > 1:
            where = ", ".join(f"{name!r} in fold {fold}" for fold, name in folds.items())
            raise CorpusError(f"{corpus.uri}: source {source!r} is in {len(folds)} folds: {where}")
