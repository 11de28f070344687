"""Label rows become events, and other programs read every export format."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import crowsetta
import duckdb
import pandas as pd  # type: ignore[import-untyped]
import pytest

from audiocnn import storage
from audiocnn.config import UNKNOWN
from audiocnn.errors import ConfigError, StorageError
from audiocnn.labels.events import Event, merged
from audiocnn.labels.export import run
from audiocnn.labels.export.run import EXPORTS, FORMATS
from helpers.common import ROOT

BUCKET = "/data/bucket"
export = partial(run.export, high_hz=2_000.0)
LABEL_STUDIO = Path(sys.prefix) / "label-studio" / "bin" / "python"


def row(start_s: float, label: str = "dog", **other: Any) -> dict[str, Any]:
    plain = {"uri": f"{BUCKET}/a.wav", "start_s": start_s, "end_s": start_s + 1.0}
    return {**plain, "label": label, "score": 0.5, "bundle": "f00d", "top_k": [], **other}


def event(name: str = "a.wav", onset_s: float = 0.0, label: str = "dog", **other: Any) -> Event:
    values = {"offset_s": onset_s + 1.5, "score": 0.75, "windows": 2, "bundle": "f00d", **other}
    return Event(uri=f"{BUCKET}/{name}", onset_s=onset_s, label=label, **values)


def spans(rows: Sequence[dict[str, Any]]) -> list[tuple[str, float, float, int]]:
    return [(e.label, e.onset_s, e.offset_s, e.windows) for e in merged(rows)]


def names(folder: Path) -> list[str]:
    """Return the paths of all files below a folder, except the list of exported files."""
    found = [p for p in folder.rglob("*") if p.is_file() and p.name != EXPORTS]
    return sorted(str(p.relative_to(folder)) for p in found)


HOSTILE = [
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\rtext",
    "\ntext",
    " =1",
    "\u00a0=1",
    "\ufeff=1",
    "\u200b=1",
    "\u202e=1",
    "\uff1d1",
    "\uff0b1",
    "\uff0d1",
    "\uff201",
]
"""Texts that a spreadsheet may run as a formula; some begin with invisible characters."""

ODD = [
    "<img src=x onerror=alert(1)>.wav",
    "a\r\nb.wav",
    'quote".wav',
    '"quoted".wav',
    "comma, semicolon; tab\t.wav",
    "\u202egnp.exe.wav",
    "nul\0.wav",
    "x" * 10_000 + ".wav",
    "../../x",
    "..",
    "a//b.wav",
    "./a.wav",
    "back\\slash.wav",
    "CAPS ü 音.wav",
    "not utf-8 \udc80.wav",
    "line\u2028separator.wav",
    "deep/" * 300 + "x.wav",
    "trailing. /x.wav",
]
"""Names of recordings that are difficult for file systems or for programs that read exports."""


def test_windows_that_touch_or_overlap_are_one_event() -> None:
    assert spans([row(0), row(1), row(2)]) == [("dog", 0, 3, 3)]
    assert spans([row(0), row(0.5), row(1)]) == [("dog", 0, 2, 3)]
    assert spans([row(0), row(1.001)]) == [("dog", 0, 2.001, 2)]
    assert spans([row(86_399), row(86_400.001)]) == [("dog", 86_399, 86_401.001, 2)]
    assert spans([row(0), row(1.002)]) == [("dog", 0, 1, 1), ("dog", 1.002, 2.002, 1)]
    assert spans([row(0, end_s=5.0), row(1)]) == [("dog", 0, 5, 2)]
    assert spans([]) == []


def test_an_event_has_the_highest_score_and_the_fingerprint() -> None:
    (found,) = merged([row(0, score=0.2), row(1, score=0.9), row(2, score=0.4)])
    assert asdict(found) == {
        "uri": f"{BUCKET}/a.wav",
        "onset_s": 0.0,
        "offset_s": 3.0,
        "label": "dog",
        "score": 0.9,
        "windows": 3,
        "bundle": "f00d",
    }


def test_another_label_recording_or_bundle_is_another_event() -> None:
    assert spans([row(0), row(1, "cat"), row(2)]) == [
        ("dog", 0, 1, 1),
        ("cat", 1, 2, 1),
        ("dog", 2, 3, 1),
    ]
    assert spans([row(0), row(1, UNKNOWN), row(2, UNKNOWN), row(3)]) == [
        ("dog", 0, 1, 1),
        (UNKNOWN, 1, 3, 2),
        ("dog", 3, 4, 1),
    ]
    assert len(list(merged([row(0), row(1, uri=f"{BUCKET}/b.wav")]))) == 2
    assert len(list(merged([row(0), row(1, bundle="beef")]))) == 2
    # Overlapping windows give overlapping events; a window of another class ends an event.
    assert spans([row(0), row(0.5), row(1, "cat"), row(1.5)]) == [
        ("dog", 0, 1.5, 2),
        ("cat", 1, 2, 1),
        ("dog", 1.5, 2.5, 1),
    ]


def test_merging_is_lazy() -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield from (row(0), row(5))
        raise AssertionError("read further than needed")

    assert next(merged(rows())).windows == 1


def test_every_format_says_where_it_is(tmp_path: Path) -> None:
    found = export(FORMATS, [event()], str(tmp_path), BUCKET)
    assert found == {
        "parquet": "events.parquet",
        "csv": "events.csv",
        "jsonl": "events.jsonl",
        "raven": "raven",
        "audacity": "audacity",
        "label-studio": "label_studio.json",
    }
    assert names(tmp_path) == [
        "audacity/a.wav.txt",
        "events.csv",
        "events.jsonl",
        "events.parquet",
        "label_studio.json",
        "label_studio.xml",
        "raven/a.wav.selections.txt",
    ]


def test_an_unknown_format_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no format 'xlsx'.*csv, jsonl, raven, audacity, label"):
        export(["csv", "xlsx"], [event()], str(tmp_path), BUCKET)
    assert names(tmp_path) == []


def test_files_are_whole_or_not_there(tmp_path: Path) -> None:
    def failing() -> Iterator[Event]:
        yield event("a.wav")
        yield event("b.wav")
        raise StorageError("s3://labels: gone")

    with pytest.raises(StorageError, match="gone"):
        export(FORMATS, failing(), str(tmp_path), BUCKET)
    assert names(tmp_path) == ["audacity/a.wav.txt", "raven/a.wav.selections.txt"]


def test_an_error_of_the_file_system_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(
        StorageError, match=r"out/events.csv: (Not a directory|File exists)"
    ) as caught:
        export(["csv"], [event()], str(tmp_path / "out"), BUCKET)
    assert "\n" not in str(caught.value)


def test_formats_are_written_to_an_object_store(bucket: str, s3: object) -> None:
    events = [event("a.wav"), event("sub/b.wav")]
    export(FORMATS, events, f"{bucket}/out", BUCKET)
    table = storage.read_bytes(f"{bucket}/out/raven/sub/b.wav.selections.txt")
    assert table.startswith(b"Selection\t")
    assert len(json.loads(storage.read_bytes(f"{bucket}/out/label_studio.json"))) == 2


def test_csv_is_read_by_pandas_and_duckdb(tmp_path: Path) -> None:
    events = [event(onset_s=0.1, score=0.8999999761581421), event(label=UNKNOWN, onset_s=7.0)]
    export(["csv"], events, str(tmp_path), BUCKET)
    path = tmp_path / "events.csv"
    by_pandas = pd.read_csv(path)
    assert [str(by_pandas[c].dtype) for c in ("onset_s", "offset_s", "score", "windows")] == [
        "float64", "float64", "float64", "int64",
    ]  # fmt: skip
    first = (f"{BUCKET}/a.wav", 0.1, 1.6, "dog", 0.9, 2, "f00d")
    assert tuple(by_pandas.iloc[0]) == first
    assert duckdb.execute(f"from read_csv('{path}')").fetchall() == [
        first,
        (f"{BUCKET}/a.wav", 7.0, 8.5, UNKNOWN, 0.75, 2, "f00d"),
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_csv_has_no_formulas(tmp_path: Path, text: str) -> None:
    bad = Event(uri=text, onset_s=0, offset_s=1, label=text, score=1, windows=1, bundle="f00d")
    export(["csv", "raven"], [bad], str(tmp_path), BUCKET)
    with (tmp_path / "events.csv").open(newline="") as file:
        _, cells = csv.reader(file)
    assert cells[0] == cells[3] == "'" + text
    (table,) = names(tmp_path / "raven")
    assert (tmp_path / "raven" / table).read_text().splitlines()[1].split("\t")[7].startswith("'")


def test_csv_with_odd_names_is_read_whole(tmp_path: Path) -> None:
    events = [event(name, label=name) for name in ODD]
    export(["csv"], events, str(tmp_path), BUCKET)
    path = tmp_path / "events.csv"
    escaped = [
        f"{BUCKET}/{name}".replace("\0", "\\x00").replace("\udc80", "\\udc80") for name in ODD
    ]
    assert b"\0" not in path.read_bytes()
    assert list(pd.read_csv(path)["uri"]) == escaped
    sql = f"select uri, score from read_csv('{path}', header=true, quote='\"', escape='\"')"
    assert duckdb.execute(sql).fetchall() == [(name, 0.75) for name in escaped]


def test_jsonl_is_exact(tmp_path: Path) -> None:
    events = [event(name, label=name, onset_s=0.25) for name in ODD]
    export(["jsonl"], events, str(tmp_path), BUCKET)
    path = tmp_path / "events.jsonl"
    assert path.read_bytes().isascii()
    lines = path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [asdict(one) for one in events]
    valid = [one for one in events if "\udc80" not in one.uri]
    export(["jsonl"], valid, str(tmp_path), BUCKET)
    by_pandas = pd.read_json(path, lines=True)
    assert list(by_pandas["uri"]) == [one.uri for one in valid]
    sql = f"select onset_s, windows from read_json('{path}')"
    assert duckdb.execute(sql).fetchall() == [(0.25, 2)] * len(valid)


def recordings() -> list[Event]:
    return [
        event("a.wav"),
        event("a.wav", 2.0, UNKNOWN),
        event("a.wav", 4.0, 'night\tjar\n"x"'),
        event("quiet.wav", label=UNKNOWN),
        event("sub/b.wav", 1.0, '"rain'),
        event("sub/b.wav", 3.0, "dog", score=0.25),
    ]


def test_raven_has_a_table_a_recording(tmp_path: Path) -> None:
    export(["raven"], recordings(), str(tmp_path), BUCKET, high_hz=11_025)
    assert names(tmp_path / "raven") == ["a.wav.selections.txt", "sub/b.wav.selections.txt"]
    table = pd.read_csv(tmp_path / "raven/sub/b.wav.selections.txt", sep="\t")
    assert list(table["Selection"]) == [1, 2]
    assert set(table["View"]) == {"Spectrogram 1"}
    assert list(table["Begin Time (s)"]) == list(table["File Offset (s)"]) == [1.0, 3.0]
    assert list(table["Begin Path"]) == [f"{BUCKET}/sub/b.wav"] * 2
    assert list(table["Annotation"]) == ["'rain", "dog"]
    assert list(table["Score"]) == [0.75, 0.25]


def test_raven_is_read_by_crowsetta(tmp_path: Path) -> None:
    export(["raven"], recordings(), str(tmp_path), BUCKET)
    path = tmp_path / "raven/a.wav.selections.txt"
    boxes = crowsetta.formats.bbox.Raven.from_file(path).to_bbox()
    found = [(b.onset, b.offset, b.low_freq, b.high_freq, b.label) for b in boxes]
    assert found == [
        (0.0, 1.5, 0.0, 2_000.0, "dog"),
        (4.0, 5.5, 0.0, 2_000.0, 'night jar "x"'),
    ]


def test_audacity_has_a_label_track_a_recording(tmp_path: Path) -> None:
    export(["audacity"], recordings(), str(tmp_path), BUCKET)
    assert names(tmp_path / "audacity") == ["a.wav.txt", "sub/b.wav.txt"]
    track = pd.read_csv(tmp_path / "audacity/a.wav.txt", sep="\t", header=None)
    assert track.to_numpy().tolist() == [[0.0, 1.5, "dog"], [4.0, 5.5, 'night jar "x"']]


def test_audacity_is_read_by_crowsetta(tmp_path: Path) -> None:
    export(["audacity"], recordings(), str(tmp_path), BUCKET)
    track = crowsetta.formats.seq.AudSeq.from_file(tmp_path / "audacity/sub/b.wav.txt")
    assert list(track.start_times) == [1.0, 3.0]
    assert list(track.end_times) == [2.5, 4.5]
    assert list(track.labels) == ["'rain", "dog"]


def test_parquet_is_read_by_duckdb_and_pandas(tmp_path: Path) -> None:
    export(["parquet"], recordings(), str(tmp_path), BUCKET)
    path = tmp_path / "events.parquet"
    found = duckdb.execute(f"select * from '{path}'").fetchall()
    assert found == [tuple(asdict(event).values()) for event in recordings()]
    assert list(pd.read_parquet(path)["label"]) == [event.label for event in recordings()]


def test_label_studio_has_a_task_a_recording(tmp_path: Path) -> None:
    events = [*recordings(), event("c.wav", label='<b> & "tag"')]
    export(["label-studio"], events, str(tmp_path), BUCKET)
    sql = f"from read_json('{tmp_path}/label_studio.json', format='array')"
    tasks = duckdb.execute(f"select data.audio, predictions {sql}").fetchall()
    assert [uri.removeprefix(BUCKET) for uri, _ in tasks] == [
        "/a.wav", "/quiet.wav", "/sub/b.wav", "/c.wav",
    ]  # fmt: skip
    ((a,), (), (b,), (c,)) = (predictions for _, predictions in tasks)
    assert a["model_version"] == "audiocnn f00d"
    assert [r["value"]["start"] for r in a["result"]] == [0.0, 4.0]
    assert b["score"] == 0.5
    assert b["result"][1] == {
        "id": "audiocnn-4",
        "from_name": "label",
        "to_name": "audio",
        "type": "labels",
        "value": {"start": 3.0, "end": 4.5, "channel": 0, "labels": ["dog"]},
        "score": 0.25,
    }
    root = ElementTree.parse(tmp_path / "label_studio.xml").getroot()
    labels = [node.get("value") for node in root.iter("Label")]
    assert labels == ['"rain', '<b> & "tag"', "dog", 'night jar "x"']
    assert c["result"][0]["value"]["labels"] == ['<b> & "tag"']


EACH = """
import runpy, sys
script, *folders = sys.argv[1:]
for folder in folders:
    sys.argv[1:] = [folder]
    runpy.run_path(script, run_name="__main__")
"""
"""Code that runs a script for several folders: importing Label Studio's SDK takes seconds."""


@pytest.mark.slow
def test_label_studio_accepts_what_it_is_given(tmp_path: Path) -> None:
    cases = {
        "plain": recordings(),
        "hostile": [event(name, label=name) for name in [*ODD, *HOSTILE]],
        "none": [],
        "unknown": [recordings()[1]],
    }
    for name, events in cases.items():
        export(["label-studio"], events, str(tmp_path / name), BUCKET)
    script = ROOT / "tests" / "helpers" / "label_studio.py"
    command = [LABEL_STUDIO, "-c", EACH, script, *(tmp_path / name for name in cases)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for events, line in zip(cases.values(), done.stdout.splitlines(), strict=True):
        assert json.loads(line) == list(dict.fromkeys(e.uri for e in events))


def test_files_of_recordings_stay_in_their_folder_and_apart(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    same = ["back\\slash.wav", "back_slash.wav", "back\u202eslash.wav", "back:slash.wav"]
    nested = ["a.wav", "a.wav.txt/b.wav", "a.wav.selections.txt/b.wav", "A.TXT/b.wav"]
    long = [f"{'x' * 300}{end}.wav" for end in "ab"]
    all_names = dict.fromkeys([*ODD, *HOSTILE, *same, *nested, *long])
    uris = [f"{BUCKET}/{name}" for name in all_names]
    uris += ["/data/other/a.wav", "s3://data/bucket/a.wav", "gs://data/bucket/a.wav"]
    events = [
        Event(uri=uri, onset_s=0, offset_s=1, label="dog", score=1, windows=1, bundle="f00d")
        for uri in uris
    ]
    export(["raven", "audacity"], events, str(folder), BUCKET + "/")
    written = names(tmp_path)
    assert len(written) == 2 * len(uris)
    assert all(name.startswith(("deep/out/raven/", "deep/out/audacity/")) for name in written)
    assert all(len(os.fsencode(part)) <= 255 for name in written for part in name.split("/"))
    assert "deep/out/audacity/back_slash.wav.txt" in written
    assert "deep/out/audacity/CAPS ü 音.wav.txt" in written  # valid, so unchanged


def test_a_name_like_a_changed_one_is_changed_too(tmp_path: Path) -> None:
    export(["audacity"], [event("a:b")], str(tmp_path), BUCKET)
    (changed,) = names(tmp_path / "audacity")
    both = [event("a:b"), event(changed.removesuffix(".txt"))]
    export(["audacity"], both, str(tmp_path), BUCKET)
    assert len(names(tmp_path / "audacity")) == 2
