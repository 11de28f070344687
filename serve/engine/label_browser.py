"""The labels of an endpoint: find windows, return their sound, and write corrections."""

import asyncio
import logging
from dataclasses import asdict
from typing import Any

from audiocnn import storage
from audiocnn.audio.encode import wav
from audiocnn.audio.recording import Recording
from audiocnn.errors import (
    AudioCNNError,
    AudioError,
    ConfigError,
    InstallationError,
    MismatchError,
    StorageError,
    UnreadableError,
)
from audiocnn.labels.label_set import name_in
from audiocnn.review.label_copy import LabelRow, Query
from audiocnn.review.label_index import Browser, State
from audiocnn.storage.csv_cells import csv_file
from serve.engine.decoder import Lane
from serve.engine.decoder_child import SegmentRequest
from serve.problems import Problem

COLUMNS = ("uri", "label", "suggested", "score", "onset_s", "offset_s", "bundle")
"""Columns of the corrections, which are a manifest for `audiocnn ingest`."""
_LOG = logging.getLogger("audiocnn.serve")


class LabelBrowser:
    """The labels at a URI. Each of their windows must be decoded within `timeout_s` seconds."""

    def __init__(self, uri: str, timeout_s: float) -> None:
        self._uri, self._timeout_s = uri, timeout_s
        self._decoder = Lane()
        self._browser: Browser | None = None
        self._opening = asyncio.Lock()

    def close(self) -> None:
        """Delete the local copy of the labels and stop the decoder. Nothing may be called then."""
        if self._browser is not None:
            self._browser.close()
        self._decoder.close()

    async def card(self) -> dict[str, Any]:
        """Return the answer of `GET /v1/labels`, for the parts read so far. Raises Problem."""
        browser = await self._opened()
        browser.refresh()
        state = browser.state
        classes = sorted(state.sums.classes.items(), key=lambda pair: (-pair[1], pair[0]))
        return {
            "bucket": state.bucket,
            "bundle": state.bundle,
            "listed": state.listed,
            "finished": state.finished,
            "parts": state.parts,
            "parts_read": state.parts_read,
            "recordings": state.sums.labelled,
            "failed": state.failed,
            "windows": state.sums.windows,
            "classes": [{"class": name, "windows": windows} for name, windows in classes],
            "trouble": state.trouble,
        }

    async def find(self, query: Query) -> dict[str, Any]:
        """Return the answer of `GET /v1/labels/windows`. Raises Problem."""
        browser = await self._opened()
        try:
            found = await asyncio.to_thread(browser.find, query)
        except (ConfigError, MismatchError) as error:
            more = {"field": "revision"}
            raise Problem("option", f"revision: {error}", more=more) from error
        if found is None:
            raise _unread()
        rows = [_named(row, browser.state) for row in found.rows]
        return {
            "total": found.total,
            "histogram": found.histogram,
            "rows": rows,
            "revision": found.revision,
        }

    async def sound(self, uri: str, start_s: float, sample_rate: int) -> bytes:
        """Return the sound of a window as WAV, without the padding. Raises Problem."""
        browser = await self._opened()
        (row,) = await _rows(browser, [(uri, start_s)])
        segment = row.start_s, row.end_s
        recording = Recording(uri=row.uri, version=row.version or None, segment=segment)
        cut = SegmentRequest(
            recording=recording,
            sample_rate=sample_rate,
            limits=browser.state.limits,
            storage_options=storage.configured(),
        )
        try:
            samples = await self._decoder.cut_out(cut, self._timeout_s)
        except UnreadableError as error:
            raise Problem("changed", str(error)) from error
        except StorageError as error:
            _LOG.error(str(error))
            raise Problem("storage", "see the server's log") from error
        except (AudioError, InstallationError) as error:
            raise Problem.of_decoder(error) from error
        return wav(samples, sample_rate)

    async def manifest(self, corrections: list[tuple[str, float, str]]) -> bytes:
        """Return a CSV for `ingest` from (URI, start in seconds, label). Raises Problem."""
        browser = await self._opened()
        places = [(uri, start_s) for uri, start_s, _ in corrections]
        found, bundle = await _rows(browser, places), browser.state.bundle
        rows = []
        for row, (_, _, label) in zip(found, corrections, strict=True):
            score, start_s, end_s = (round(v, 6) for v in (row.score, row.start_s, row.end_s))
            rows.append((row.uri, label, row.label, score, start_s, end_s, bundle))
        return csv_file([COLUMNS, *rows])

    async def _opened(self) -> Browser:
        """Open the labels at the first request, so that a replica can start without them.

        Raises Problem.
        """
        async with self._opening:
            if self._browser is None:
                try:
                    self._browser = await asyncio.to_thread(Browser, self._uri)
                except AudioCNNError as error:
                    _LOG.error(str(error))
                    raise Problem("storage", "see the server's log") from error
            return self._browser


async def _rows(browser: Browser, places: list[tuple[str, float]]) -> list[LabelRow]:
    """Return the windows at these places (URI, start in seconds), in their order.

    Raises Problem if one is missing.
    """
    found = await asyncio.to_thread(browser.windows, places)
    if found is None:
        raise _unread()
    by_place = {(row.uri, row.start_s): row for row in found}
    for uri, start_s in places:
        if (uri, start_s) not in by_place:
            raise Problem("not-found", f"the labels have no window at {start_s:g} s of {uri!r}")
    return [by_place[place] for place in places]


def _unread() -> Problem:
    return Problem(
        "not-ready", "this replica is still reading the labels", headers={"retry-after": "1"}
    )


def _named(row: LabelRow, state: State) -> dict[str, Any]:
    plain = asdict(row)
    del plain["version"]
    return {**plain, "name": name_in(state.bucket, row.uri)}
