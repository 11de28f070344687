"""If ingest reads a grown corpus differently, it keeps the features and stops; no Ray starts."""

from pathlib import Path

import pytest

from audiocnn import storage
from audiocnn.audio.encode import encode
from audiocnn.config import AudioLimits
from audiocnn.corpus import synthetic
from audiocnn.corpus.folds import with_folds
from audiocnn.corpus.read import read_corpus
from audiocnn.errors import ConfigError
from audiocnn.features.extractor import Extractor
from audiocnn.features.part import item_of, part_name
from audiocnn.storage import output_folder
from audiocnn.storage.output_folder import FEATURES
from helpers.common import SMALL
from pipelines.ingest import job
from pipelines.ingest.job import ingest
from pipelines.options import Ingest

SPLIT = [f"{fold}/{name}/1.wav" for fold in ("train", "test") for name in ("dog", "cat")]
NUMBERED = [f"{name}/{take}.wav" for name in ("001 - dog", "002 - cat") for take in "12"]
ESC = [f"{name}/{fold}-{n}{fold}-A.wav" for n, name in enumerate(("dog", "cat")) for fold in "34"]
LISTS = ["validation_list.txt", "testing_list.txt"]


def fill(corpus: Path, names: list[str]) -> None:
    for seed, name in enumerate(names):
        path = corpus / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sound = synthetic.sound("bell", seed, 1.0, 16_000)
        path.write_bytes(encode(sound, 16_000) if name.endswith(".wav") else b"")


def begin(corpus: Path, to: Path) -> Ingest:
    """Write features of a corpus as a stopped ingest leaves them; return its options."""
    options = Ingest(corpus=str(corpus), to=str(to), folds=2, feature=SMALL, workers=1)
    read = read_corpus(options.corpus)
    storage.write_json(f"{to}/job.json", job._job(options, read))
    items = [item_of(clip) for clip in with_folds(read, options.folds).clips]
    with (
        storage.atomic_path(f"{to}/{part_name(SMALL, items)}") as path,
        Extractor(SMALL, AudioLimits()) as extractor,
    ):
        extractor.part(items, path)
    return options


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check(options: Ingest) -> None:
    """Check, as `ingest` does before it writes, that the corpus is read as before."""
    output = output_folder.claim(options.to, FEATURES)
    corpus, ledgers = read_corpus(options.corpus), job._ledgers(output.uri)
    assert any(ledger.ingested for ledger in ledgers)
    job._refuse_other_reading(output.uri, output.notes, corpus, ledgers)


@pytest.mark.parametrize(
    ("first", "gone", "new", "why"),
    [
        (
            SPLIT, [], ["extra/bird/1.wav", "extra/bird/2.wav"],
            "its names gave the folds, but give none now; test, train are not folds",
        ),
        (
            SPLIT, [], ["extra/dog/1.wav", "extra/cat/1.wav"],
            "its names gave the folds, but give none now; test, train are not folds",
        ),
        (NUMBERED, [], ["bird/1.wav", "bird/2.wav"], "'001 - dog/1.wav' would be '001 - dog'; un"),
        (ESC, [], ["dog/mine.wav"], "its names gave the folds, but give none now; undo"),
        ([*ESC, "dog/mine.wav"], ["dog/mine.wav"], [], "-A.wav' would be '(dog|cat)' in fold [34]"),
        (
            ["north/dog/1.wav", "north/dog/2.wav", "north/cat/1.wav", "north/cat/2.wav"], [],
            ["south/dog/1.wav"],
            "'north/cat/1.wav' would be 'north'; classes are the outermost folders",
        ),
        (
            ["dog/1.wav", "dog/2.wav", "cat/1.wav", "cat/2.wav"], [], LISTS,
            "its layout was folders, and is speechcommands now; undo",
        ),
    ],
)  # fmt: skip
def test_a_layout_that_is_read_otherwise_since_is_refused_and_nothing_is_lost(
    tmp_path: Path, first: list[str], gone: list[str], new: list[str], why: str
) -> None:
    corpus, to = tmp_path / "corpus", tmp_path / "features"
    fill(corpus, first)
    options = begin(corpus, to)
    check(options)
    for name in gone:
        (corpus / name).unlink()
    fill(corpus, new)
    before = content(to)
    with pytest.raises(ConfigError, match=f"^--to {to}: {corpus} is read differently .*: .*{why}"):
        ingest(options)
    assert content(to) == before


def test_so_are_features_of_a_version_that_noted_no_layout(tmp_path: Path) -> None:
    corpus, to = tmp_path / "corpus", tmp_path / "features"
    fill(corpus, SPLIT)
    options = begin(corpus, to)
    note = storage.read_json(f"{to}/job.json")
    new = {name: value for name, value in note.items() if name not in ("layout", "has_folds")}
    storage.write_json(f"{to}/job.json", new)
    check(options)
    fill(corpus, ["extra/bird/1.wav", "extra/bird/2.wav"])
    with pytest.raises(ConfigError, match=r"'test/cat/1\.wav' would be 'test'; test, train are"):
        ingest(options)


@pytest.mark.parametrize(
    ("first", "new"),
    [
        (SPLIT, ["val/dog/1.wav", "train/bird/1.wav", "test/bird/1.wav"]),
        (["dog/1.wav", "cat/1.wav"], ["bird/1.wav", "dog/1.wav"]),
        (["north/dog/1.wav", "north/cat/1.wav"], ["south/dog/1.wav", "south/cat/1.wav"]),
        (ESC, ["bird/1-99-A.wav"]),
    ],
)
def test_a_corpus_that_grew_as_it_began_is_not_refused(
    tmp_path: Path, first: list[str], new: list[str]
) -> None:
    fill(tmp_path / "corpus", [name.replace("1.wav", f"{n}.wav") for name in first for n in "12"])
    options = begin(tmp_path / "corpus", tmp_path / "features")
    fill(tmp_path / "corpus", new)
    check(options)


def test_what_a_manifest_says_otherwise_is_taken(tmp_path: Path) -> None:
    fill(tmp_path, ["0.wav", "1.wav"])
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("uri,label,fold\n0.wav,dog,1\n1.wav,cat,1\n")
    options = begin(manifest, tmp_path / "features")
    manifest.write_text("uri,label\n0.wav,cat\n1.wav,dog\n")
    check(options)


def test_a_corpus_of_which_no_clip_is_left_is_read_as_it_is(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    fill(corpus, SPLIT)
    options = begin(corpus, tmp_path / "features")
    for path in sorted(corpus.rglob("*.wav")):
        to = corpus / path.parent.name / f"{path.parent.parent.name}.wav"
        to.parent.mkdir(exist_ok=True)
        path.rename(to)
    check(options)
