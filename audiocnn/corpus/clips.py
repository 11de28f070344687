"""Labelled corpora: clips, what cannot be one, class order, folds, and source groups."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from audiocnn import storage
from audiocnn.audio.decode import Segment
from audiocnn.audio.recording import Archive, Recording
from audiocnn.config import UNKNOWN
from audiocnn.errors import CorpusError


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A labelled recording.

    `source` names the recording it was cut from: clips of one source share a fold. `version`
    is another one where the file was changed, and None where it was not listed; `size` is in
    bytes, and None likewise. Where there is an `archive`, the bytes are there, and `uri` is
    for people.
    Where there is a `segment`, the clip is that stretch of the recording alone.
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
        """Where its bytes are."""
        return Recording(
            uri=self.uri,
            size=self.size,
            archive=self.archive,
            version=self.version,
            segment=self.segment,
        )


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """Something that was listed and cannot be used; `reason` is a key of `FAILURE_REASONS`.

    `uri` is UTF-8, with whatever is none escaped.
    """

    uri: str
    reason: str
    detail: str


def rejection_row(rejected: Rejected) -> dict[str, str]:
    """The row of what a corpus lists and cannot use."""
    reason = f"{rejected.reason}: {rejected.detail}"
    return {"uri": rejected.uri, "stage": "list", "reason": storage.printable(reason)}


@dataclass(frozen=True, kw_only=True)
class Unreviewed:
    """A clip that somebody was asked to label and did not yet: no clip, and no failure."""

    uri: str


@dataclass(frozen=True)
class Remark:
    """How a corpus was read, where there is another way to read it."""

    text: str


Entry = Clip | Rejected | Unreviewed | Remark
"""What a layout finds in a corpus."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Clips in order of `clip_id`, and the class names, sorted: the order every model uses."""

    uri: str
    layout: str
    clips: tuple[Clip, ...]
    rejected: tuple[Rejected, ...] = ()
    ignored: int = 0
    """Files of the folder that are no clips of it, and clips that nobody reviewed yet."""
    remarks: tuple[str, ...] = ()
    """How it was read, for people."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order that travels with features, models and labels."""
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
    """A clip from what a corpus says of it, as text, or why it is none.

    The empty text is none: no fold, no source, no version. Of a `segment`, its beginning and its
    end in seconds, `clip_id` becomes another one, and the recording is the source where none is
    given.
    """
    label, fold = label.strip(), fold.strip()
    number, stretch = _fold(fold), _segment(*segment)
    if stretch:
        source = source or clip_id
        clip_id = f"{clip_id}#t={stretch[0]!r},{stretch[1]!r}"  # see `segment_of`
    wrong = None
    if not _is_utf8(uri + clip_id) or "\0" in uri:
        wrong = "path", "its name is not UTF-8, or has a NUL in it"
    elif not label:
        wrong = "label", "it has no label"
    elif not _is_utf8(label + source):
        wrong = "label", "its label or its source is not UTF-8"
    elif fold and number is None:
        wrong = "fold", f"{fold!r} is no whole number from 0 to 2147483647"
    elif any(segment) and not stretch:
        wrong = "segment", f"from {segment[0]!r} to {segment[1]!r}"
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
        fold = float(text)  # pandas writes 1.0 where a row has none
    except ValueError:
        return None
    return int(fold) if fold.is_integer() and 0 <= fold < 2**31 else None


def segment_of(clip_id: str) -> Segment | None:
    """What of its recording a clip is, by its name, which ends as W3C's Media Fragments do."""
    times = clip_id.rpartition("#t=")[2].split(",") if "#t=" in clip_id else []
    return _segment(times[0], times[1]) if len(times) == 2 else None


def assemble(uri: str, layout: str, entries: Iterable[Entry]) -> Corpus:
    """The corpus of its entries; of a clip that is listed twice, the first is used.

    Raises CorpusError for fewer than two classes, clips with and without folds, or a source in
    two folds.
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
            detail = f"listed a second time, here as {item.label!r}"
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
    return corpus


def _check(corpus: Corpus) -> None:
    if len(corpus.classes) < 2:
        why = ""
        if corpus.rejected:
            first = corpus.rejected[0]
            why = f"; {len(corpus.rejected)} clips cannot be used, as {first.uri!r}: {first.detail}"
        if corpus.ignored:
            why += f"; {corpus.ignored} clips have no label yet"
        raise CorpusError(f"{corpus.uri}: found {len(corpus.classes)} classes, 2 are needed{why}")
    if UNKNOWN in corpus.classes:
        raise CorpusError(
            f"{corpus.uri}: {UNKNOWN!r} cannot be a class, for it is the answer below a class's "
            "threshold; name it otherwise"
        )
    without = [clip.clip_id for clip in corpus.clips if clip.fold is None]
    if without and len(without) < len(corpus.clips):
        raise CorpusError(f"{corpus.uri}: some clips have a fold and {without[0]!r} has none")
    check_sources(corpus)


def check_sources(corpus: Corpus) -> None:
    """Clips of one recording in two folds make a test look better than it is."""
    by_source: dict[str, dict[int | None, str]] = defaultdict(dict)
    for clip in corpus.clips:
        if clip.source is not None:
            by_source[clip.source].setdefault(clip.fold, clip.clip_id)
    for source, folds in by_source.items():
        if len(folds) > 1:
            where = ", ".join(f"{name!r} in fold {fold}" for fold, name in folds.items())
            raise CorpusError(f"{corpus.uri}: source {source!r} is in {len(folds)} folds: {where}")
