"""A review is written for a person, the person answers, and `ingest` reads the answers."""

import csv
import io
import json
import re
import shutil
import wave
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audiocnn import storage
from audiocnn.audio import decode, encode
from audiocnn.corpus import synthetic
from audiocnn.corpus.folds import with_folds
from audiocnn.corpus.read import read_corpus
from audiocnn.errors import ConfigError, CorpusError
from audiocnn.labels import label_set
from audiocnn.model.predictor import Predictor
from audiocnn.review.page import ReviewClip, page
from audiocnn.review.selection import Pick
from audiocnn.storage import csv_cells
from helpers import strangers
from helpers.common import SMALL, make_bundle
from helpers.small_labels import change_note, label_bucket
from pipelines.options import Review
from pipelines.review import review

COLUMNS = ["uri", "label", "suggested", "score", "why", "source", "start_s", "end_s"]
HOSTILE = ["<img src=x onerror=alert(1)>.wav", "'\"><script>alert(1).wav", "=1+1, b.wav",
           "a\nb.wav", "\u202egnp.wav", "ü 音 &amp; #%.wav"]  # fmt: skip


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(make_bundle(tmp_path_factory.mktemp("review") / "bundle"))


@pytest.fixture(scope="module")
def labelled_bucket(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `bundle`, `bucket` (31 recordings, some with hostile names) and `labels`."""
    folder = tmp_path_factory.mktemp("labelled")
    predictor.bundle.write(str(folder / "bundle"))
    (folder / "bucket" / "deep").mkdir(parents=True)
    names = [*HOSTILE, *(f"deep/{index:02d}.wav" for index in range(24))]
    for index, name in enumerate(names):
        samples = synthetic.sound(list(synthetic.SOUNDS)[index % 8], index, 1.6 + index % 4, 16_000)
        (folder / "bucket" / name).write_bytes(encode.encode(samples, 16_000))
    stereo = np.stack([samples, samples[::-1]], axis=1)
    (folder / "bucket" / "deep" / "stereo.wav").write_bytes(encode.encode(stereo, 44_100))
    bucket, bundle = str(folder / "bucket"), str(folder / "bundle")
    label_bucket(str(folder / "labels"), bucket, predictor, bundle)
    return folder


@pytest.fixture
def place(labelled_bucket: Path, tmp_path: Path) -> Path:
    """A folder with a copy of those `labels`; the bucket is not copied."""
    shutil.copytree(labelled_bucket / "labels", tmp_path / "labels")
    return tmp_path


def options(place: Path, **changes: Any) -> Review:
    values = {"labels": str(place / "labels"), "to": str(place / "review"), "count": 50}
    return Review(**{**values, **changes})


def read_rows(place: Path) -> list[dict[str, str]]:
    with (place / "review" / "review.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def answer(place: Path, labels: dict[int, str]) -> Path:
    """Fill in labels by row and write the file again, as a spreadsheet would; return its path."""
    rows = read_rows(place)
    for at, label in labels.items():
        rows[at]["label"] = label
    path = place / "review" / "review.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_review_has_the_sound_of_each_window_and_no_answers(
    place: Path, predictor: Predictor
) -> None:
    written = review(options(place))
    table = pd.read_csv(place / "review" / "review.csv")
    assert list(table.columns) == COLUMNS
    assert len(table) == len(written.clips) == 50
    assert table["label"].isna().all()
    assert table["uri"].tolist() == [f"clips/{n:04d}.wav" for n in range(1, 51)]
    assert set(table["why"]) == {"uncertain", "surprising"}
    assert {p.name for p in (place / "review").iterdir()} == {
        "clips", "review.csv", "review.html", "review.json",
    }  # fmt: skip
    assert len(list((place / "review" / "clips").iterdir())) == 50
    by_window = {
        (row["uri"], row["start_s"]): row
        for row in label_set.read_labels(str(place / "labels")).to_pylist()
    }
    short = 0
    for row in table.to_dict("records"):
        label = by_window[row["source"], row["start_s"]]
        assert row["suggested"] == label["top_k"][0]["label"]
        assert row["score"] == pytest.approx(label["score"], abs=1e-6)
        assert row["end_s"] == pytest.approx(label["end_s"], abs=1e-6)
        cut = next(
            window
            for window in predictor.decode(Path(row["source"]).read_bytes())
            if window.start_s == row["start_s"]
        )
        samples = cut.samples[: round(cut.duration_s * SMALL.sample_rate)]
        short += len(samples) < SMALL.window_samples
        with wave.open(str(place / "review" / row["uri"])) as sound:
            assert (sound.getnchannels(), sound.getsampwidth()) == (1, 2)
            assert sound.getframerate() == SMALL.sample_rate
        data = (place / "review" / row["uri"]).read_bytes()
        _, again = decode.read(data, SMALL.sample_rate)
        assert again == pytest.approx(samples, abs=1 / 65_000)
        if "stereo" not in row["source"]:  # 16 bits at this rate: exactly the same samples
            assert (again == samples).all()
    assert short > 0


def test_the_same_labels_give_the_same_review(place: Path) -> None:
    review(options(place))
    review(options(place, to=str(place / "again")))
    for name in ("review.csv", "review.html", "clips/0007.wav"):
        first, second = (place / folder / name for folder in ("review", "again"))
        assert first.read_bytes() == second.read_bytes()


def test_answers_are_never_lost(
    place: Path, labelled_bucket: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    review(options(place, count=12))
    (place / "review" / "notes.txt").write_text("mine")
    (place / "review" / "clips" / "mine.wav").write_text("mine")
    answer(place, {0: "dog"})
    for name in ("review.csv", "review.html"):
        with pytest.raises(ConfigError, match=rf"{name} is there already.*--overwrite"):
            review(options(place))
        (place / "review" / name).rename(place / "review" / f"{name}.mine")
    (place / "review" / "review.csv.mine").rename(place / "review" / "review.csv")
    assert read_rows(place)[0]["label"] == "dog"
    review(options(place, count=3, overwrite=True))
    assert len(read_rows(place)) == 3
    clips = sorted(p.name for p in (place / "review" / "clips").iterdir())
    assert clips == ["0001.wav", "0002.wav", "0003.wav", "mine.wav"]
    assert (place / "review" / "notes.txt").exists()
    assert "review.csv is not the file that review wrote" in capsys.readouterr().out
    kept = pd.read_csv(place / "review" / "review.csv.kept-1")
    assert kept["label"].tolist()[0] == "dog"
    bucket = labelled_bucket / "bucket"
    (place / "link").symlink_to(bucket / "deep")
    for to in (bucket, bucket / "deep" / "review", bucket.parent, place / "link" / "review"):
        with pytest.raises(ConfigError, match="it is in the bucket"):
            review(options(place, to=str(to)))
    assert not (bucket / "deep" / "review").exists()


def test_a_review_costs_nobody_a_file(place: Path) -> None:
    planted = strangers.plant(place / "review")
    strangers.plant(place / "review", ("clips/0001.wav", "clips/0013.wav"))
    review(options(place, count=12))
    clip = place / "review" / "clips" / "0001.wav"
    assert clip.with_name("0001.wav.kept-1").read_bytes() == b"clips/0001.wav is mine"
    assert clip.read_bytes()[:4] == b"RIFF"
    review(options(place, count=3, overwrite=True))
    assert strangers.found(place / "review") == planted
    ours = {"0001.wav", "0002.wav", "0003.wav"}
    found = {path.name for path in (place / "review" / "clips").glob("????.wav")}
    assert found == {*ours, "0013.wav", "mine.wav"}
    for name in ("review.csv", "review.html", "review.json"):
        (place / "review" / name).unlink()
    (place / "review" / "review.json").write_text('{"mine": 1}')
    with pytest.raises(ConfigError, match=r"review\.json is there, and review did not write it"):
        review(options(place, overwrite=True))


def test_a_review_of_an_earlier_version_is_replaced(place: Path) -> None:
    review(options(place, count=12))
    (place / "review" / "review.json").unlink()
    answer(place, {0: "dog"})
    review(options(place, count=12, overwrite=True))
    kept = pd.read_csv(place / "review" / "review.csv.kept-1")
    assert kept["label"].tolist()[0] == "dog"
    assert len(list((place / "review" / "clips").iterdir())) == 12  # the sounds did not change


def test_recordings_that_are_gone_or_changed_are_skipped_and_told(
    labelled_bucket: Path, tmp_path: Path, predictor: Predictor, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = Path(shutil.copytree(labelled_bucket / "bucket", tmp_path / "bucket"))
    bundle = str(labelled_bucket / "bundle")
    label_bucket(str(tmp_path / "labels"), str(bucket), predictor, bundle)
    (tmp_path / "labels" / "summary.json").unlink()
    (bucket / "deep" / "03.wav").unlink()
    (bucket / "deep" / "04.wav").write_bytes((bucket / "deep" / "05.wav").read_bytes())
    written = review(options(tmp_path, count=300))
    assert set(written.skipped) == {str(bucket / "deep" / name) for name in ("03.wav", "04.wav")}
    out = capsys.readouterr().out
    assert "is not complete" in out
    assert "2 recordings are left out" in out
    assert "gone: " in out
    rows = read_rows(tmp_path)
    assert len(rows) == len(written.clips) < 93
    assert not any(name in row["source"] for row in rows for name in ("/03.wav", "/04.wav"))
    assert all((tmp_path / "review" / row["uri"]).exists() for row in rows)
    assert with_no_versions(tmp_path / "labels")
    (bucket / "deep" / "06.wav").write_bytes((bucket / "deep" / "07.wav").read_bytes())
    again = review(options(tmp_path, count=300, overwrite=True))
    assert str(bucket / "deep" / "06.wav") in again.skipped  # its length differs
    shutil.rmtree(bucket)
    with pytest.raises(ConfigError, match="no window to review: gone"):
        review(options(tmp_path, overwrite=True))


def with_no_versions(folder: Path) -> bool:
    """Rewrite labels as if their store had no versions."""
    for path in (folder / "parts").iterdir():
        table = pq.read_table(path)
        none = pa.array([""] * len(table), pa.string())
        at = table.column_names.index("version")
        pq.write_table(table.set_column(at, "version", none), path)
    return True


def test_what_is_louder_than_full_scale_is_heard_whole(
    tmp_path: Path, predictor: Predictor, labelled_bucket: Path
) -> None:
    (tmp_path / "bucket").mkdir()
    wide = 20_000 * np.sin(np.arange(16_000) / 9).astype(np.float32)
    loud = encode.encode(wide, 16_000, codec="FLOAT")
    (tmp_path / "bucket" / "loud.wav").write_bytes(loud)
    bundle = str(labelled_bucket / "bundle")
    label_bucket(str(tmp_path / "labels"), str(tmp_path / "bucket"), predictor, bundle)
    review(options(tmp_path, count=1))
    data = (tmp_path / "review" / "clips" / "0001.wav").read_bytes()
    _, samples = decode.read(data, 16_000)
    assert samples == pytest.approx(wide / np.abs(wide).max(), abs=1e-4)


def test_answers_come_back_as_a_corpus(place: Path) -> None:
    review(options(place))
    manifest = place / "review" / "review.csv"
    with pytest.raises(CorpusError, match=r"found 0 classes.*50 clips have no label yet"):
        read_corpus(str(manifest))
    labels = {at: ["dog", " rain ", "a new one", "'=cmd|x"][at % 4] for at in range(0, 40)}
    labels |= {45: "  "}
    answer(place, labels)
    corpus = read_corpus(str(manifest))
    assert corpus.classes == ("=cmd|x", "a new one", "dog", "rain")
    assert (len(corpus.clips), corpus.ignored, corpus.rejected) == (40, 10, ())
    rows = read_rows(place)
    for clip in corpus.clips:
        at = int(clip.clip_id[-8:-4]) - 1
        assert clip.uri == str(place / "review" / "clips" / f"{at + 1:04d}.wav")
        assert clip.source == rows[at]["source"]
        assert clip.label == csv_cells.unescape_formula(labels[at].strip())
    dealt = with_folds(corpus, 2)
    folds: dict[str | None, set[int | None]] = {}
    for clip in dealt.clips:
        folds.setdefault(clip.source, set()).add(clip.fold)
    assert {len(found) for found in folds.values()} == {1}
    table = pd.read_csv(manifest)
    table.to_parquet(place / "review" / "review.parquet")
    again = read_corpus(str(place / "review" / "review.parquet"))
    assert (again.clips, again.ignored) == (corpus.clips, 10)


def test_in_any_other_manifest_a_clip_without_a_label_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("uri,label\na.wav,x\nb.wav,'=y\nc.wav,\n")
    corpus = read_corpus(str(tmp_path / "m.csv"))
    assert corpus.classes == ("'=y", "x")
    assert [item.reason for item in corpus.rejected] == ["label"]
    assert corpus.ignored == 0


# The page.


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_has_a_player_and_a_field_for_each_clip(place: Path) -> None:
    review(options(place))
    text = (place / "review" / "review.html").read_text(encoding="utf-8")
    found = Page(text)
    rows = read_rows(place)
    assert [one["src"] for one in found.all("audio")] == [row["uri"] for row in rows]
    assert len(found.all("input")) == 50
    assert [one["value"] for one in found.all("option")] == ["bell", "dog", "rain"]
    assert all("value" not in one for one in found.all("input"))
    for row, clip in zip(rows, found.all("li"), strict=True):
        values = json.loads(clip["data-cells"] or "")
        assert [csv_cells.escape_formula(v) if isinstance(v, str) else v for v in values] == [
            float(value) if name in ("score", "start_s", "end_s") else value
            for name, value in row.items()
        ]
    assert json.loads(found.all("body")[0]["data-columns"] or "") == COLUMNS


def test_hostile_names_are_text_and_nothing_else(place: Path) -> None:
    change_note(place / "labels", bucket="/<script>alert(2)</script>")
    review(options(place, count=300))
    text = (place / "review" / "review.html").read_text(encoding="utf-8")
    found = Page(text)
    assert len(found.all("script")) == len(found.all("style")) == 1
    assert not found.all("img")
    allowed = {"src", "controls", "preload", "aria-label"}
    assert all(set(one) <= allowed for one in found.all("audio"))
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert {Path(row["source"]).name for row in read_rows(place)} >= set(HOSTILE)
    shown = "".join(found.text)
    for name in HOSTILE:
        assert name in shown
    (policy,) = (one["content"] for one in found.all("meta") if "http-equiv" in one)
    assert policy
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = b64encode(sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in re.sub(r"http-equiv", "", text)


def test_hostile_classes_are_text_and_nothing_else() -> None:
    hostile = ['"><script>alert(1)</script>', "=1+1", "&lt;b&gt;", "</li></ol>"]
    picks = [
        Pick(uri="/b/a.wav", version="", start_s=0.0, end_s=1.0, suggested=name, score=0.5, why=why)
        for name in hostile
        for why in ("uncertain", "rare")
    ]
    clips = [ReviewClip(path=f"{n}.wav", name="a", pick=pick) for n, pick in enumerate(picks)]
    found = Page(page(clips, hostile, "/b", "f00d"))
    assert len(found.all("script")) == 1
    assert len(found.all("li")) == len(clips)
    assert [one["value"] for one in found.all("option")] == hostile
    taken = [one["data-label"] for one in found.all("button") if one.get("class") == "take"]
    assert taken == [name for name in hostile for _ in range(2)]


def test_cells_are_inert_and_come_back() -> None:
    for text in ("=1", "+1", "-1", "@x", "\t=1", " \u200b=1", "\uff1d1", "dog", "", "'quoted'"):
        assert csv_cells.unescape_formula(csv_cells.escape_formula(text)) == text
        written = csv_cells.csv_file([["text", "number"], [text, -0.5]]).decode()
        assert next(csv.DictReader(io.StringIO(written, newline=""))) == {
            "text": csv_cells.escape_formula(text), "number": "-0.5",
        }  # fmt: skip


def test_a_review_of_labels_in_another_store(
    s3: Any, bucket: str, labelled_bucket: Path, predictor: Predictor, tmp_path: Path
) -> None:
    for path in (labelled_bucket / "bucket" / "deep").iterdir():
        storage.write_bytes(f"{bucket}/in/{path.name}", path.read_bytes())
    bundle = str(labelled_bucket / "bundle")
    label_bucket(f"{bucket}/labels", f"{bucket}/in", predictor, bundle)
    s3_options = options(tmp_path, labels=f"{bucket}/labels", to=f"{bucket}/review", count=9)
    written = review(s3_options)
    assert len(written.clips) == 9
    there = {"stereo.wav", *(f"{n:02d}.wav" for n in range(24))}
    assert {clip.name for clip in written.clips} <= there
    with pytest.raises(ConfigError, match="is there already"):
        review(s3_options)
    review(replace(s3_options, overwrite=True))
    rows = storage.read_bytes(f"{bucket}/review/review.csv").decode()
    assert rows.count(f"{bucket}/in/") == 9
