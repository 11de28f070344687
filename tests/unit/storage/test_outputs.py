"""Which verb an output folder belongs to, and which files a job may remove or overwrite."""

import hashlib
import itertools
import json
from pathlib import Path

import pytest

from audiocnn.corpus.file_list import FileList
from audiocnn.errors import ConfigError, StorageError
from audiocnn.storage import output_folder
from audiocnn.storage.output_folder import BUNDLE, DEMO, FEATURES, LABELS, REPORT, REVIEW, Kind
from helpers.small_parts import left_behind

NOTES = [
    (FEATURES, "features.json", {"format": "audiocnn.features/1"}),
    (FEATURES, "job.json", {"format": "audiocnn.ingest/1"}),
    (BUNDLE, "bundle.json", {"format": "audiocnn.bundle/1"}),
    (BUNDLE, "job.json", {"format": "audiocnn.train/1"}),
    # The note of the first version of train.
    (
        BUNDLE,
        "job.json",
        {
            "features": "f00d",
            "training": {},
            "workers": 1,
            "streams": False,
            "test_fold": None,
            "versions": {"audiocnn": "0.1"},
        },
    ),
    (REPORT, "report.json", {"format": "audiocnn.report/2"}),
    (REPORT, "job.json", {"format": "audiocnn.evaluate/1"}),
    (LABELS, "summary.json", {"format": "audiocnn.labels/1"}),
    (LABELS, "labels.json", {"format": "audiocnn.labels/2"}),
    (REVIEW, "review.json", {"format": "audiocnn.review/1"}),
    (DEMO, "demo.json", {"format": "audiocnn.demo/1"}),
]
KINDS = (FEATURES, BUNDLE, REPORT, LABELS, REVIEW, DEMO)


def write(folder: Path, files: dict[str, str | bytes]) -> None:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content.encode() if isinstance(content, str) else content)


def read(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("kind", "name", "note"), NOTES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_folder_of_another_verb_is_refused_and_told(
    tmp_path: Path, kind: Kind, name: str, note: dict[str, object]
) -> None:
    write(tmp_path, {name: json.dumps(note)})
    assert output_folder.claim(str(tmp_path), kind).notes == {name: note}
    for other in KINDS:
        if other is not kind:
            said = rf"it holds {kind.holds} \({name} of {kind.verb}\); name another folder"
            with pytest.raises(ConfigError, match=said):
                output_folder.claim(str(tmp_path), other)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.verb)
def test_a_strangers_file_under_a_name_of_the_verb_is_refused(tmp_path: Path, kind: Kind) -> None:
    for name in (*kind.notes, *kind.files):
        folder = tmp_path / name
        write(folder, {name: '{"format": "of another program"}'})
        with pytest.raises(ConfigError, match=f"{name} is there, and {kind.verb} did not write it"):
            output_folder.claim(str(folder), kind)
        for other in KINDS:
            if name not in (*other.notes, *other.files):
                assert output_folder.claim(str(folder), other).notes == {}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.verb)
def test_a_note_that_cannot_be_read_is_said_to_be_so_and_why(tmp_path: Path, kind: Kind) -> None:
    """The note may belong to the verb, and so may the files beside it."""
    beside = dict.fromkeys(("failures.parquet", "model.safetensors", "report.html"), "ours")
    damaged = (
        ('{"format": "audiocnn', r"not JSON \(Unterminated string.*\)"),
        ("", r"not JSON \(Expecting value.*\)"),
        ("[1]", "not a JSON object"),
        (None, "a folder"),
    )
    for number, (name, (content, why)) in enumerate(itertools.product(kind.notes, damaged)):
        folder = tmp_path / str(number)
        write(folder, beside if content is None else {**beside, name: content})
        if content is None:
            (folder / name).mkdir()
        said = rf"{folder}: {name} is there, and cannot be read \({why}\); move it away, or name"
        with pytest.raises(ConfigError, match=said):
            output_folder.claim(str(folder), kind)


def test_that_a_folder_is_anothers_is_said_before_that_a_note_is_damaged(tmp_path: Path) -> None:
    write(tmp_path, {"job.json": "{", "report.json": '{"format": "audiocnn.report/2"}'})
    with pytest.raises(ConfigError, match=r"it holds a report \(report\.json of evaluate\)"):
        output_folder.claim(str(tmp_path), BUNDLE)
    with pytest.raises(ConfigError, match=r"job\.json is there, and cannot be read"):
        output_folder.claim(str(tmp_path), REPORT)


def test_what_has_a_note_is_the_verbs_own(tmp_path: Path) -> None:
    mine = {"notes.txt": "mine", "failures.parquet.bak": "mine", "parts/failures.parquet": "mine"}
    note = json.dumps({"format": "audiocnn.features/2"})
    left_behind(tmp_path / f".audiocnn-{'0f' * 16}.tmp")
    write(tmp_path, {**mine, "features.json": note, "failures.parquet": "ours"})
    output = output_folder.claim(str(tmp_path), FEATURES)
    assert output.files == ("failures.parquet",)
    with pytest.raises(ConfigError, match=r"features\.json is there already.*--overwrite"):
        output.require_unfinished()
    assert "features.json" in read(tmp_path)  # a claim removes nothing
    output.clear()
    assert read(tmp_path) == mine


def test_what_a_killed_job_was_writing_goes_with_what_its_list_has(tmp_path: Path) -> None:
    """Temporary files beside listed files are removed; elsewhere they may be another job's."""
    half = f".audiocnn-{'0f' * 16}.tmp"
    mine = {"notes.txt": "mine", ".notes.tmp": "mine", f"deep/{half}": "half of a file"}
    files = FileList(str(tmp_path), "list.json")
    files.write_bytes("clips/1.wav", b"ours")
    files.finish(())
    write(tmp_path, mine)
    for folder in (".", "clips", "deep"):
        left_behind(tmp_path / folder / half)
    FileList(str(tmp_path), "list.json").clear()
    assert read(tmp_path) == {**mine, "list.json": read(tmp_path)["list.json"]}


def test_wildcards_match_no_slash() -> None:
    assert output_folder.matches("parts/part-1.parquet", "parts/part-*.parquet")
    for path in ("parts/part-1/mine.parquet", "parts/part-.parquet/x", "x/parts/part-1.parquet"):
        assert not output_folder.matches(path, "parts/part-*.parquet")


def test_a_sweep_removes_what_is_owned_and_temporary_files(tmp_path: Path) -> None:
    mine = {
        "parts/part-1.parquet": "mine",
        "parts/deep/part-ours.parquet": "mine",
        "parts/.notes.tmp": "mine",
        "parts/.audiocnn-0f.tmp": "mine",
        "parts.old/part-ours.parquet": "mine",
        "part-ours.parquet": "mine",
    }
    ours = [f"parts/.{prefix}{'0f' * 16}.tmp" for prefix in ("", "audiocnn-")]
    for path in ours:
        left_behind(tmp_path / path)
    write(tmp_path, {**mine, "parts/part-ours.parquet": "", "parts/part-kept.parquet": "four"})
    asked: list[str] = []

    def owned(path: str) -> bool:
        asked.append(path)
        return "ours" in path

    swept = output_folder.sweep(
        str(tmp_path), "parts/part-*.parquet", owned, {"parts/part-kept.parquet"}
    )
    assert (swept.bytes, swept.others) == (4, ["parts/part-1.parquet"])
    assert sorted(asked) == ["parts/part-1.parquet", "parts/part-ours.parquet"]
    assert read(tmp_path) == {**mine, "parts/part-kept.parquet": "four"}
    assert output_folder.sweep(str(tmp_path), "nothing/*", owned).others == []


# Files for users.


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write_files(folder: Path, texts: dict[str, str], *, clear: bool = False) -> dict[str, str]:
    """Write texts as a job does; return each changed file and the path where it was kept."""
    told: dict[str, str] = {}
    files = FileList(str(folder), "list.json", told.__setitem__)
    if clear:
        files.clear()
    for path, text in texts.items():
        files.write_bytes(path, text.encode())
    files.finish({path.split("/")[0] for path in texts}, format="f")
    return told


def test_a_file_that_nobody_changed_is_replaced_or_removed(tmp_path: Path) -> None:
    assert write_files(tmp_path, {"events.csv": "1", "raven/a": "1", "raven/deep/b": "1"}) == {}
    mine = {"raven/mine.txt": "mine", "raven.old/a": "mine", "raven/deep/a": "mine"}
    write(tmp_path, mine)
    assert write_files(tmp_path, {"raven/a": "2"}) == {}
    listed = {"events.csv": digest("1"), "raven/a": digest("2")}
    found = read(tmp_path)
    assert json.loads(found.pop("list.json")) == {"format": "f", "files": listed}
    assert found == {**mine, "events.csv": "1", "raven/a": "2"}
    assert write_files(tmp_path, {}, clear=True) == {}
    assert read(tmp_path) == mine


def test_a_file_that_somebody_changed_is_kept_beside_and_told(tmp_path: Path) -> None:
    write(tmp_path, {"raven/b": "mine before"})
    assert write_files(tmp_path, {"raven/a": "1", "raven/b": "1", "raven/c": "1"}) == {
        "raven/b": "raven/b.kept-1"
    }
    write(tmp_path, {"raven/a": "edited", "raven/b": "edited"})
    assert write_files(tmp_path, {"raven/b": "2"}) == {
        "raven/a": "raven/a.kept-1",
        "raven/b": "raven/b.kept-2",
    }
    (tmp_path / "list.json").unlink()
    assert read(tmp_path) == {
        "raven/a.kept-1": "edited",
        "raven/b": "2",
        "raven/b.kept-1": "mine before",
        "raven/b.kept-2": "edited",
    }


def test_a_changed_file_is_kept_when_all_are_cleared(tmp_path: Path) -> None:
    write_files(tmp_path, {"review.csv": "1", "page.html": "1"})
    write(tmp_path, {"review.csv": "answers"})
    assert write_files(tmp_path, {"review.csv": "2"}, clear=True) == {
        "review.csv": "review.csv.kept-1"
    }
    (tmp_path / "list.json").unlink()
    assert read(tmp_path) == {"review.csv": "2", "review.csv.kept-1": "answers"}


def test_what_a_killed_job_wrote_is_taken_for_its_own_when_it_is_written_again(
    tmp_path: Path,
) -> None:
    write_files(tmp_path, {"raven/a": "1"})
    killed = FileList(str(tmp_path), "list.json")
    for path in ("raven/a", "raven/b"):
        killed.write_bytes(path, b"2")  # killed before it wrote the list
    left_behind(tmp_path / "raven" / f".audiocnn-{'0f' * 16}.tmp")
    assert write_files(tmp_path, {"raven/a": "2", "raven/b": "2"}) == {}
    (tmp_path / "list.json").unlink()
    assert read(tmp_path) == {"raven/a": "2", "raven/b": "2"}


def test_a_file_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.csv": "1"})
    write(tmp_path, {"a.csv": "edited", "raven": "a file where a folder should be"})
    before = read(tmp_path)
    with pytest.raises(StorageError):
        write_files(tmp_path, {"raven/a": "2"})
    with pytest.raises(ZeroDivisionError):
        half_a_file(tmp_path)
    assert read(tmp_path) == before


def half_a_file(folder: Path) -> None:
    with FileList(str(folder), "list.json").atomic_path("a.csv") as path:
        Path(path).write_text("half of it")
        raise ZeroDivisionError


def test_a_note_that_only_looks_like_trains_makes_no_weights_its_own(tmp_path: Path) -> None:
    note = json.dumps({"features": ["mfcc"], "training": {}})
    mine = {"job.json": note, "model.safetensors": "weights of mine"}
    write(tmp_path, mine)
    with pytest.raises(ConfigError, match=r"\.(json|safetensors) is there, and train did not"):
        output_folder.claim(str(tmp_path), BUNDLE)
    assert read(tmp_path) == mine


@pytest.mark.parametrize("path", ["../secret.txt", "raven/../../secret.txt", "/secret.txt", ""])
def test_a_list_that_leads_out_of_its_folder_costs_nothing(tmp_path: Path, path: str) -> None:
    temporary = f".audiocnn-{'0f' * 16}.tmp"
    write(tmp_path, {"secret.txt": "mine", temporary: "another job's"})
    sha = hashlib.sha256(b"mine").hexdigest()
    write(tmp_path / "labels", {"exports.json": json.dumps({"files": {path: sha}})})
    files = FileList(str(tmp_path / "labels"), "exports.json")
    files.clear()
    files.finish(())
    assert read(tmp_path) == {"secret.txt": "mine", temporary: "another job's"}
