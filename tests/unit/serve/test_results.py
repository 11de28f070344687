"""The dashboard's routes for a labelled bucket: to browse it, listen to it and correct labels."""

import csv
import io
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from starlette.testclient import TestClient

from audiocnn import storage
from audiocnn.audio.decode import windows
from audiocnn.audio.encode import encode
from audiocnn.audio.recording import Recording
from audiocnn.corpus import synthetic
from audiocnn.corpus.read import read_corpus
from audiocnn.errors import FormatError, MismatchError, StorageError
from audiocnn.features.extractor import Extractor
from audiocnn.features.part import item_of
from audiocnn.labels import label_set, part as label_part, reader as label_reader
from audiocnn.labels.part import LabelWriter, Scored
from audiocnn.model.predictor import Predictor
from audiocnn.review import label_index
from audiocnn.review.label_copy import Query
from audiocnn.review.label_index import Browser
from helpers.asking import wait_until
from helpers.common import make_bundle
from helpers.small_labels import change_note, label_bucket, write_notes
from serve.api.app import make_app
from serve.api.keys import digest
from serve.deploy.run import check
from serve.engine.decoder import Decoder
from serve.engine.label_browser import LabelBrowser
from serve.engine.model import BatchingModel
from serve.engine.service import Service
from serve.options import LIMITS, Serve

Row = dict[str, Any]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(make_bundle(tmp_path_factory.mktemp("results") / "bundle"))


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen recordings of a few seconds, two of half a minute, and a file without sound."""
    folder = tmp_path_factory.mktemp("bucket")
    (folder / "deep").mkdir()
    for index in range(14):
        samples = synthetic.sound(list(synthetic.SOUNDS)[index % 8], index, 1.6 + index % 4, 16_000)
        name = f"deep/{index:02d}.wav" if index else "=<b>1+1, ü.wav"
        (folder / name).write_bytes(encode(samples, 16_000))
    for name, container in (("long a.flac", "flac"), ("long b.mp3", "mp3")):
        samples = synthetic.sound("siren", 3, 30.0, 22_050)
        (folder / name).write_bytes(encode(samples, 22_050, container))
    (folder / "none.wav").write_text("no sound")
    return folder


@pytest.fixture(scope="module")
def made(bucket: Path, predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels") / "labels"
    label_bucket(str(folder), str(bucket), predictor, "bundle")
    return folder


@pytest.fixture(scope="module")
def rows(made: Path) -> list[Row]:
    return label_set.read_labels(str(made)).to_pylist()


@pytest.fixture
def browser(made: Path) -> Iterator[Browser]:
    opened = Browser(str(made))
    opened.refresh(wait=True)
    yield opened
    opened.close()


def places(found: list[Any]) -> list[tuple[str, float]]:
    return [(row.uri, row.start_s) for row in found]


def test_all_of_the_labels_are_there(browser: Browser, rows: list[Row]) -> None:
    state = browser.state
    assert state.trouble is None
    assert state.finished
    assert (state.parts, state.parts_read) == (2, 2)
    assert (state.sums.labelled, state.failed, state.sums.windows) == (16, 1, len(rows))
    found = browser.find(Query(sort="name", limit=10_000))
    assert found.total == len(found.rows) == len(rows) > 50
    by_name = sorted(rows, key=lambda row: (row["uri"].encode(), row["start_s"]))
    assert [vars(row) for row in found.rows] == [
        {name: row[name] for name in vars(found.rows[0])} for row in by_name
    ]


def test_windows_are_found_by_class_score_and_name(browser: Browser, rows: list[Row]) -> None:
    label, _ = Counter(row["label"] for row in rows).most_common(1)[0]
    scores = sorted(row["score"] for row in rows if row["label"] == label)
    low, high = scores[len(scores) // 4], scores[3 * len(scores) // 4]
    wanted = [
        row for row in rows
        if row["label"] == label and low <= row["score"] <= high and "long" in row["uri"]
    ]  # fmt: skip
    query = Query(label=label, lowest=low, highest=high, name="LONG")
    best = browser.find(query)
    assert best.total == len(wanted) > 3
    assert [row.score for row in best.rows] == sorted(
        (row["score"] for row in wanted), reverse=True
    )
    worst = browser.find(Query(**{**vars(query), "sort": "lowest"}))
    assert [row.score for row in worst.rows] == sorted(row["score"] for row in wanted)
    page = browser.find(Query(**{**vars(query), "offset": 2, "limit": 1}))
    assert page.rows == best.rows[2:3]
    assert page.total == best.total
    # The histogram counts all scores, so that people see which windows a bound leaves out.
    of_label = [row["score"] for row in rows if row["label"] == label and "long" in row["uri"]]
    bins = np.minimum(
        (np.array(of_label, np.float32) * label_part.BINS).astype(int), label_part.BINS - 1
    )
    assert best.histogram == np.bincount(bins, minlength=label_part.BINS).tolist()


@pytest.mark.parametrize("name", ["%", "_", "'; DROP TABLE labels; --", "<b>1+1", "Ü.WAV"])
def test_a_name_is_text(browser: Browser, rows: list[Row], name: str) -> None:
    wanted = [row for row in rows if name.lower() in row["uri"].lower()]
    assert browser.find(Query(name=name)).total == len(wanted)


def test_what_changes_is_followed_part_by_part(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[Row]
) -> None:
    monkeypatch.setattr(label_index, "_FRESH_S", 0.0)
    folder = tmp_path / "labels"
    shutil.copytree(made, folder)
    first, second = sorted((folder / "parts").iterdir())
    second.rename(tmp_path / "second")
    (folder / "summary.json").unlink()
    browser = Browser(str(folder))
    browser.refresh(wait=True)
    assert (browser.state.parts_read, browser.state.finished) == (1, False)
    before = browser.find(Query()).total
    (tmp_path / "second").rename(second)
    browser.refresh(wait=True)
    assert browser.find(Query()).total == browser.state.sums.windows == len(rows) > before
    gone = rows[0]["uri"]
    assert label_part.without(str(first), {gone})
    browser.refresh(wait=True)
    left = [row for row in rows if row["uri"] != gone]
    assert browser.find(Query()).total == browser.state.sums.windows == len(left)
    assert browser.state.sums.classes == Counter(row["label"] for row in left)
    second.write_bytes(b"damaged")
    browser.refresh(wait=True)
    assert "damaged" in (browser.state.trouble or "")
    assert browser.find(Query()).total == before - (len(rows) - len(left))
    browser.close()


def test_what_is_no_labels_is_refused(tmp_path: Path, made: Path, predictor: Predictor) -> None:
    bundle = str(tmp_path / "bundle")
    predictor.bundle.write(bundle)
    assert check(Serve(bundle=bundle, port=9, labels=str(made))) == ()
    with pytest.raises(StorageError, match=r"labels\.json"):
        check(Serve(bundle=bundle, labels=str(tmp_path / "none")))
    folder = tmp_path / "other"
    shutil.copytree(made, folder)
    change_note(folder, bundle="0123456789abcdef")
    with pytest.raises(MismatchError, match="made by bundle 0123456789abcdef, but"):
        check(Serve(bundle=bundle, labels=str(folder)))
    (folder / "labels.json").write_text('{"format": "audiocnn.labels/2"}')
    with pytest.raises(FormatError, match="damaged"):
        Browser(str(folder))


Client = Callable[..., TestClient]


@pytest.fixture(scope="module")
def client(made: Path, predictor: Predictor) -> Iterator[Client]:
    decoder, results = Decoder(LIMITS), LabelBrowser(str(made), 30.0)
    model = BatchingModel(predictor.bundle)
    service = Service(predictor.bundle, model, decoder)

    def make(keys: tuple[str, ...] = (), results: LabelBrowser | None = results) -> TestClient:
        app = make_app(lambda: service, Serve(bundle="b"), keys, labels=results)
        return TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)

    wait_until(lambda: make().get("/v1/labels").json()["parts_read"] == 2)
    yield make
    results.close()
    model.close()
    decoder.close()


def name_of(response: Any) -> str:
    assert response.headers["content-type"] == "application/problem+json", response.text
    return str(response.json()["type"]).removeprefix("/problems/")


def test_the_card_says_what_is_there(client: Client, bucket: Path, rows: list[Row]) -> None:
    assert client().get("/v1/model").json()["labels"] is True
    card = client().get("/v1/labels").json()
    assert card["bucket"] == str(bucket)
    assert card["trouble"] is None
    assert (card["recordings"], card["failed"], card["windows"]) == (16, 1, len(rows))
    counts = [(one["class"], one["windows"]) for one in card["classes"]]
    assert dict(counts) == Counter(row["label"] for row in rows)
    assert counts == sorted(counts, key=lambda pair: (-pair[1], pair[0]))


def test_an_endpoint_without_labels_says_so(client: Client) -> None:
    bare = client(results=None)
    assert bare.get("/v1/model").json()["labels"] is False
    for path in ("/v1/labels", "/v1/labels/windows", "/v1/labels/sound?uri=a&start_s=0"):
        assert name_of(bare.get(path)) == "not-found"
    assert name_of(bare.post("/v1/labels/corrections", json={"rows": []})) == "not-found"


def test_labels_are_behind_the_keys(client: Client) -> None:
    key = "a-key-that-nobody-would-guess"
    locked = client(keys=(digest(key),))
    for path in ("/v1/labels", "/v1/labels/windows", "/v1/labels/sound?uri=a&start_s=0"):
        assert name_of(locked.get(path)) == "key"
    assert locked.get("/v1/labels", headers={"x-api-key": key}).status_code == 200


@pytest.mark.parametrize(
    "query", ["lowest=-1", "highest=1.5", "limit=501", "offset=-1", "sort=odd", "what=1"]
)
def test_a_bad_option_is_named(client: Client, query: str) -> None:
    response = client().get(f"/v1/labels/windows?{query}")
    assert name_of(response) == "option"
    assert response.json()["field"] == query.partition("=")[0]


@pytest.mark.parametrize("name", ["deep/03.wav", "long a.flac", "long b.mp3", "=<b>1+1, ü.wav"])
def test_a_windows_sound_is_the_labels_window(
    client: Client, bucket: Path, predictor: Predictor, name: str
) -> None:
    found = client().get("/v1/labels/windows", params={"name": name, "limit": 500}).json()["rows"]
    feature = predictor.bundle.feature
    cut = {one.start_s: one for one in windows((bucket / name).read_bytes(), feature)}
    assert {row["start_s"] for row in found} == cut.keys()
    for row in found[:5]:
        assert row["name"] == name
        place = {"uri": row["uri"], "start_s": row["start_s"]}
        response = client().get("/v1/labels/sound", params=place)
        assert response.headers["content-type"] == "audio/wav"
        samples, rate = soundfile.read(io.BytesIO(response.content), dtype="float32")
        window = cut[row["start_s"]]
        length = round(window.duration_s * feature.sample_rate)
        assert rate == feature.sample_rate
        assert len(samples) == length == round((row["end_s"] - row["start_s"]) * rate)
        assert np.abs(samples - window.samples[:length]).max() <= 0.5 / 32_768 + 1e-6
        # A prediction of this sound gives the window's label again.
        answer = client().post("/v1/predict", content=response.content).json()
        assert answer["label"] == row["label"]
        assert answer["score"] == pytest.approx(row["score"], abs=0.01)


def test_only_what_is_among_the_labels_is_read(client: Client, bucket: Path) -> None:
    for uri in (
        "/etc/passwd",
        f"{bucket}/none.wav",
        "http://127.0.0.1:1/a.wav",
        "s3://a/b.wav",
        "",
    ):
        response = client().get("/v1/labels/sound", params={"uri": uri, "start_s": 0})
        assert name_of(response) == "not-found"
    there = {"uri": f"{bucket}/deep/03.wav", "start_s": 0.25}
    assert name_of(client().get("/v1/labels/sound", params=there)) == "not-found"
    assert name_of(client().get("/v1/labels/sound", params={**there, "start_s": "nan"})) == "option"


def test_a_recording_that_changed_or_is_gone_is_not_played(client: Client, bucket: Path) -> None:
    path = bucket / "deep" / "05.wav"
    place = {"uri": str(path), "start_s": 0}
    before = path.read_bytes()
    for now in (encode(synthetic.sound("siren", 9, 3.0, 16_000), 16_000), None):
        path.unlink()
        if now:
            path.write_bytes(now)
        assert name_of(client().get("/v1/labels/sound", params=place)) == "changed"
    path.write_bytes(before)


def test_corrections_are_a_manifest_that_ingest_reads(
    client: Client, bucket: Path, predictor: Predictor, rows: list[Row], tmp_path: Path
) -> None:
    picked = [rows[0], *(row for row in rows if "long a" in row["uri"])][:6]
    said = ["=cmd|' /C calc'!A0", "bird", "bird", "  ", "rain", "bird"]
    asked = [
        {"uri": row["uri"], "start_s": row["start_s"], "label": label}
        for row, label in zip(picked, said, strict=True)
    ]
    response = client().post("/v1/labels/corrections", json={"rows": asked})
    assert response.headers["content-type"].startswith("text/csv")
    assert "corrections.csv" in response.headers["content-disposition"]
    lines = list(csv.DictReader(io.StringIO(response.text, newline="")))
    assert [line["uri"] for line in lines] == [row["uri"] for row in picked]
    assert [line["suggested"] for line in lines] == [row["label"] for row in picked]
    assert lines[0]["label"] == "'=cmd|' /C calc'!A0"  # not a formula for a spreadsheet
    path = tmp_path / "corrections.csv"
    path.write_bytes(response.content)
    corpus = read_corpus(str(path))
    assert corpus.rejected == ()
    assert corpus.ignored == 1  # the row without a label
    assert sorted(clip.label for clip in corpus.clips) == sorted(s for s in said if s.strip())
    # The ingested features are those of the corrected windows.
    wanted = [row for row, label in zip(picked, said, strict=True) if label.strip()]
    with Extractor(predictor.bundle.feature, LIMITS) as extractor:
        part = str(tmp_path / "part.parquet")
        assert not extractor.part([item_of(clip) for clip in corpus.clips], part).failed
    ingested = storage.read_parquet(part)
    logmels = dict(
        zip(
            ingested["clip_id"].to_pylist(),
            ingested["logmel"].combine_chunks().to_numpy_ndarray(),
            strict=True,
        )
    )
    assert len(logmels) == len(wanted)
    for row in wanted:
        cut = next(
            one
            for one in windows(Path(row["uri"]).read_bytes(), predictor.bundle.feature)
            if one.start_s == row["start_s"]
        )
        (mine,) = (
            logmel
            for name, logmel in logmels.items()
            if name == f"{row['uri']}#t={row['start_s']!r},{row['end_s']!r}"
        )
        assert np.array_equal(mine, predictor.features([cut.samples])[0].astype(np.float16))


def test_corrections_of_what_is_not_there_are_refused(client: Client, rows: list[Row]) -> None:
    good = {"uri": rows[0]["uri"], "start_s": rows[0]["start_s"], "label": "x"}
    for bad, name in (
        ({**good, "uri": "/etc/passwd"}, "not-found"),
        ({**good, "start_s": 0.123}, "not-found"),
        ({**good, "more": 1}, "option"),
        ({"uri": good["uri"]}, "option"),
    ):
        response = client().post("/v1/labels/corrections", json={"rows": [good, bad]})
        assert name_of(response) == name


def test_pages_go_to_the_end(tmp_path: Path, predictor: Predictor) -> None:
    folder = tmp_path / "labels"
    (folder / "parts").mkdir(parents=True)
    scores = np.random.default_rng(0).dirichlet(np.ones(len(predictor.bundle.classes)), 50)
    found = Scored(
        start_s=np.arange(50.0), duration_s=np.ones(50), scores=scores,
        level_dbfs=np.full(50, -20.0), channel=np.zeros(50, int),
    )  # fmt: skip
    part = str(folder / label_set.part_name("aa", 0))
    with LabelWriter(part, predictor.bundle, 2) as writer:
        for number in range(1_000):
            writer.add(Recording(uri=f"/b/{number:05d}.wav"), [found])
        writer.finish()
    write_notes(str(folder), "/b", predictor, "bundle")
    browser = Browser(str(folder))
    browser.refresh(wait=True)
    assert browser.find(Query(sort="lowest", offset=49_990)).total == 50_000
    assert len(browser.find(Query(sort="lowest", offset=49_990)).rows) == 10
    asked = [("/b/00007.wav", 3.0), ("/b/00999.wav", 49.0), ("/b/x.wav", 0.0)]
    assert sorted(places(browser.windows(asked))) == asked[:2]
    browser.close()


def test_a_bundle_that_rolls_does_not_take_the_labels_away(
    made: Path, tmp_path: Path, predictor: Predictor
) -> None:
    """Browsing needs nothing from the bundle that made the labels; it may be gone by then."""
    with pytest.raises(Exception, match="bundle"):
        label_reader.open_labels(str(made), str(tmp_path / "gone"))
    browser = Browser(str(made))
    browser.refresh(wait=True)
    assert browser.state.bundle == predictor.bundle.fingerprint
    assert browser.state.trouble is None
    browser.close()
