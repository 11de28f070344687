"""An export keeps the files that people edited or added."""

from functools import partial
from pathlib import Path

from audiocnn.labels.events import Event
from audiocnn.labels.export import run
from audiocnn.labels.export.run import clear_exports
from helpers import strangers

BUCKET = "/data/bucket"
export = partial(run.export, high_hz=2_000.0)


def event(name: str) -> Event:
    values = {"offset_s": 1.5, "score": 0.75, "windows": 2, "bundle": "f00d"}
    return Event(uri=f"{BUCKET}/{name}", onset_s=0.0, label="dog", **values)


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_what_a_person_did_to_an_export_is_kept_and_other_formats_are_left_alone(
    tmp_path: Path,
) -> None:
    planted = strangers.plant(tmp_path)
    two = [event("a.wav"), event("b.wav")]
    export(["raven", "audacity", "csv"], two, str(tmp_path), BUCKET)
    edited = tmp_path / "raven" / "a.wav.selections.txt"
    edited.write_text("my own boxes")
    (tmp_path / "audacity" / "a.wav.txt").write_text("my own labels")
    (tmp_path / "label_studio.json").write_text("my project")
    before = contents(tmp_path)
    told: dict[str, str] = {}
    export(["raven", "parquet"], [event("a.wav")], str(tmp_path), BUCKET, on_kept=told.__setitem__)
    assert told == {"raven/a.wav.selections.txt": "raven/a.wav.selections.txt.kept-1"}
    after = contents(tmp_path)
    assert after.pop("raven/a.wav.selections.txt.kept-1") == b"my own boxes"
    assert before.keys() - after.keys() == {"raven/b.wav.selections.txt"}
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed == {"raven/a.wav.selections.txt", "events.parquet", "exports.json"}
    assert strangers.found(tmp_path) == planted
    told.clear()
    clear_exports(str(tmp_path), told.__setitem__)
    assert told == {"audacity/a.wav.txt": "audacity/a.wav.txt.kept-1"}
    assert contents(tmp_path).keys() == {
        *planted, "events.parquet", "label_studio.json", "audacity/a.wav.txt.kept-1",
        "raven/a.wav.selections.txt.kept-1",
    }  # fmt: skip
