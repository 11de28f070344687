"""Each replica of an endpoint reads the labels on its own; all replicas give the same answer."""

import csv
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from starlette.testclient import TestClient

from audiocnn.errors import StorageError
from audiocnn.labels import label_set
from audiocnn.labels.label_set import find_parts, part_name
from audiocnn.model.bundle import Bundle
from audiocnn.model.predictor import Predictor
from audiocnn.review import label_index
from helpers.asking import wait_until
from helpers.clients import problem
from helpers.hostile import sound
from helpers.small_labels import change_note, label_bucket
from serve.api.app import make_app
from serve.engine.label_browser import LabelBrowser
from serve.engine.service import Service
from serve.options import Serve

WINDOWS = "/v1/labels/windows"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bucket")
    for number in range(24):
        (folder / f"{number:02d}.wav").write_bytes(sound("wav"))
    return folder


@pytest.fixture(scope="module")
def whole(bucket: Path, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels in three parts."""
    folder = tmp_path_factory.mktemp("labels") / "labels"
    label_bucket(str(folder), str(bucket), Predictor(bundle), "bundle")
    return folder


class Copies:
    """Replicas of an endpoint, and a folder of labels; a test can remove and add its parts."""

    def __init__(self, service: Service, whole: Path, folder: Path) -> None:
        self.whole, self.folder, self._service = whole, folder, service
        self._results: list[LabelBrowser] = []
        shutil.copytree(whole, folder)
        self.rows = label_set.read_labels(str(whole)).to_pylist()

    def copy(self) -> TestClient:
        results = LabelBrowser(str(self.folder), 30.0)
        self._results.append(results)
        app = make_app(lambda: self._service, Serve(bundle="b"), (), labels=results)
        return TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)

    def part(self, number: int) -> Path:
        return self.folder / part_name("aa", number)

    def take_away(self, number: int) -> None:
        self.part(number).unlink()
        (self.folder / "summary.json").unlink(missing_ok=True)

    def bring(self, number: int) -> None:
        shutil.copy2(self.whole / part_name("aa", number), self.part(number))

    def count(self, *parts: int) -> int:
        """Return the number of windows in these parts; the first parts have ten recordings each."""
        uris = sorted({row["uri"] for row in self.rows})
        wanted = {uri for number in parts for uri in uris[10 * number : 10 * number + 10]}
        return sum(row["uri"] in wanted for row in self.rows)

    def close(self) -> None:
        for results in self._results:
            results.close()


@pytest.fixture
def copies(service: Service, whole: Path, tmp_path: Path) -> Iterator[Copies]:
    found = Copies(service, whole, tmp_path / "labels")
    yield found
    found.close()


def total(copy: TestClient) -> int:
    return int(copy.get(WINDOWS).json()["total"])


def test_copies_that_are_asked_for_windows_alone_follow_the_labels(
    copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_index, "_FRESH_S", 0.0)
    copies.take_away(2)
    first, second = copies.copy(), copies.copy()
    for copy in (first, second):
        wait_until(lambda copy=copy: total(copy) == copies.count(0, 1))
    copies.bring(2)
    for copy in (first, second):  # without a request for the card
        wait_until(lambda copy=copy: total(copy) == copies.count(0, 1, 2))
    answers = [copy.get(WINDOWS).json() for copy in (first, second)]
    assert answers[0] == answers[1]


def test_pages_of_several_copies_neither_repeat_nor_skip_while_labels_grow(
    copies: Copies,
) -> None:
    copies.take_away(1)
    copies.take_away(2)
    behind = copies.copy()
    wait_until(lambda: total(behind) == copies.count(0))
    copies.bring(1)
    ahead = copies.copy()
    wait_until(lambda: total(ahead) == copies.count(0, 1))
    query: dict[str, Any] = {"sort": "name", "limit": 7, "offset": 0}
    page = ahead.get(WINDOWS, params=query).json()
    copies.bring(2)  # the replicas may have read it or not
    late = copies.copy()
    wait_until(lambda: total(late) == copies.count(0, 1, 2))
    wanted, rows, turn = page["total"], page["rows"], 0
    query["revision"] = page["revision"]
    while len(rows) < wanted:
        asked = (behind, late, ahead)[turn % 3]
        page = asked.get(WINDOWS, params=query | {"offset": len(rows)}).json()
        assert (page["total"], page["revision"]) == (wanted, query["revision"])
        assert sum(page["histogram"]) == wanted
        rows, turn = rows + page["rows"], turn + 1
    assert turn > 3
    places = [(row["uri"], row["start_s"]) for row in rows]
    uris = {row["uri"] for row in copies.rows}
    expected = sorted(
        (row["uri"], row["start_s"]) for row in copies.rows if row["uri"] in sorted(uris)[:20]
    )
    assert places == expected


def test_a_window_that_one_copy_showed_is_known_to_the_others(copies: Copies) -> None:
    copies.take_away(2)
    behind = copies.copy()
    wait_until(lambda: total(behind) == copies.count(0, 1))
    copies.bring(2)
    last = max(copies.rows, key=lambda row: row["uri"])
    place = {"uri": last["uri"], "start_s": last["start_s"]}
    assert behind.get("/v1/labels/sound", params=place).status_code == 200
    answer = behind.post("/v1/labels/corrections", json={"rows": [{**place, "label": "dog"}]})
    assert answer.status_code == 200


def test_a_revision_that_is_gone_is_said_and_one_out_of_reach_is_waited_for(
    copies: Copies,
) -> None:
    copy = copies.copy()
    wait_until(lambda: total(copy) == len(copies.rows))
    query = {"revision": copy.get(WINDOWS).json()["revision"]}
    note = copies.folder / "labels.json"
    text = note.read_text()
    copies.take_away(1)
    fresh = copies.copy()
    body = problem(fresh.get(WINDOWS, params=query), 422, "option")
    assert body["field"] == "revision"
    assert "go back to the first page" in body["detail"]
    note.write_text("half")
    behind = fresh.get(WINDOWS, params=query)
    problem(behind, 503, "not-ready")
    assert behind.headers["retry-after"]
    note.write_text(text)
    copies.bring(1)
    assert fresh.get(WINDOWS, params=query).json()["total"] == len(copies.rows)
    body = problem(fresh.get(WINDOWS, params={"revision": "aa:0"}), 422, "option")
    assert body["field"] == "revision"


def test_labels_that_another_bundle_made_meanwhile_are_shown_as_its_own(
    copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_index, "_FRESH_S", 0.0)
    copy = copies.copy()
    wait_until(lambda: total(copy) == len(copies.rows))
    before = copy.get("/v1/labels").json()
    change_note(copies.folder, bundle="another", bucket="/elsewhere", max_duration_s=1.0)
    copies.part(2).unlink()

    def read() -> dict[str, Any]:
        """Return the card once both parts are read with the new note; a call starts a refresh."""
        card = dict(copy.get("/v1/labels").json())
        return card if (card["parts_read"], card["bundle"]) == (2, "another") else {}

    now = wait_until(read)
    assert (now["bucket"], now["windows"]) == ("/elsewhere", copies.count(0, 1))
    assert now["windows"] == sum(one["windows"] for one in now["classes"]) < before["windows"]
    row = copy.get(WINDOWS).json()["rows"][0]
    assert row["name"] == row["uri"]  # it is not below the new bucket
    place = {"uri": row["uri"], "start_s": row["start_s"]}
    answer = copy.post("/v1/labels/corrections", json={"rows": [{**place, "label": "dog"}]})
    (line,) = csv.DictReader(io.StringIO(answer.text, newline=""))
    assert line["bundle"] == "another"
    long = copy.get("/v1/labels/sound", params=place)
    assert problem(long, 413, "too-long")["reason"] == "too_long"  # the new note's limit


def test_a_copy_starts_without_the_labels_and_shows_them_once_they_are_there(
    copies: Copies,
) -> None:
    note = copies.folder / "labels.json"
    text = note.read_text()
    for now in (None, "half", json.dumps({"format": "audiocnn.labels/1"})):
        note.unlink(missing_ok=True)
        if now is not None:
            note.write_text(now)
        copy = copies.copy()
        for path in ("/v1/labels", WINDOWS, "/v1/labels/sound?uri=a&start_s=0"):
            problem(copy.get(path), 503, "storage")
    note.write_text(text)
    wait_until(lambda: total(copy) == len(copies.rows))


def test_labels_that_were_not_listed_yet_are_not_shown_as_none(
    copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = Event()
    monkeypatch.setattr(
        label_index, "find_parts", lambda *args: listed.wait() and find_parts(*args)
    )
    copy = copies.copy()
    assert copy.get("/v1/labels").json()["listed"] is False
    listed.set()
    wait_until(lambda: copy.get("/v1/labels").json()["listed"])
    assert copy.get("/v1/labels").json()["parts"] == 3


def test_within_the_half_minute_nobody_looks_again(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = label_index.Browser(str(whole))
    browser.refresh(wait=True)
    looked: list[str] = []

    def look(uri: str) -> None:
        looked.append(uri)
        raise StorageError("away")

    monkeypatch.setattr(label_index, "read_note", look)
    monkeypatch.setattr(label_index, "monotonic", lambda: browser._fresh_until - 0.1)
    browser.refresh(wait=True)
    assert looked == []
    monkeypatch.setattr(label_index, "monotonic", lambda: browser._fresh_until + 0.1)
    browser.refresh(wait=True)
    assert looked == [browser.uri]
    browser.close()
