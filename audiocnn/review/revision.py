"""A text that names the parts of labels that a result was computed from.

Labels grow while people look through them, and each replica of an endpoint reads them on its own.
A client sends the revision of the first page with its request for the next one, and any replica
answers from exactly these parts.
"""

import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from audiocnn.errors import ConfigError
from audiocnn.labels.label_set import LabelPart

_SPAN = r"\d{1,9}(-\d{1,9})?"
_LISTING = rf"\w+:{_SPAN}(,{_SPAN})*"
_TEXT = re.compile(rf"(?P<listings>({_LISTING}~)*)(?P<digest>[0-9a-f]{{16}})", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Revision:
    """A set of parts, each in one version.

    >>> str(Revision.of(parts))
    '3f2a91c0:0-57,60~8d1b77aa:0-3~0123456789abcdef'
    """

    spans: dict[str, tuple[tuple[int, int], ...]]
    """By listing: ranges of shards, both ends included, in order."""
    digest: str
    """Start of the SHA-256 of the parts' listings, shards, sizes and versions; 16 digits."""

    @staticmethod
    def of(parts: Iterable[LabelPart]) -> "Revision":
        """Return the revision of these parts."""
        parts = sorted(parts)
        spans = {
            listing: tuple(_runs(part.shard for part in group))
            for listing, group in groupby(parts, lambda part: part.listing_id)
        }
        written = "".join(f"{p.listing_id} {p.shard} {p.size} {p.version}\n" for p in parts)
        return Revision(spans=spans, digest=hashlib.sha256(written.encode()).hexdigest()[:16])

    @staticmethod
    def parse(text: str) -> "Revision":
        """Parse the text of a revision. Raises ConfigError if it is not one."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ConfigError("not a revision from an earlier answer")
        spans = {}
        for listing in match["listings"].split("~")[:-1]:
            name, _, runs = listing.partition(":")
            ends = [run.partition("-")[::2] for run in runs.split(",")]
            spans[name] = tuple((int(first), int(last or first)) for first, last in ends)
        return Revision(spans=spans, digest=match["digest"])

    def __str__(self) -> str:
        listings = (
            f"{name}:" + ",".join(f"{a}-{b}" if b > a else str(a) for a, b in runs) + "~"
            for name, runs in self.spans.items()
        )
        return "".join(listings) + self.digest

    def among(self, parts: Iterable[LabelPart]) -> list[LabelPart] | None:
        """Return its parts among these; None if some are missing or were rewritten."""
        found = [part for part in parts if self._has(part)]
        return found if Revision.of(found) == self else None

    def _has(self, part: LabelPart) -> bool:
        runs = self.spans.get(part.listing_id, ())
        at = bisect_right(runs, part.shard, key=lambda run: run[0]) - 1
        return at >= 0 and part.shard <= runs[at][1]


def _runs(numbers: Iterable[int]) -> Iterable[tuple[int, int]]:
    """Yield the ranges without gaps, both ends included, of numbers in order."""
    placed = enumerate(numbers)
    for _, group in groupby(placed, lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        yield run[0], run[-1]
