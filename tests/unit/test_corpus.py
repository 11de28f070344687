import csv
from pathlib import Path

import pandas as pd
import pytest

from audiocnn.corpus import read_corpus, with_folds
from audiocnn.errors import CorpusError, StorageError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def esc50(root: Path, rows: list[tuple[str, int, str, str]]) -> Path:
    touch(root, *[f"audio/{row[0]}" for row in rows])
    (root / "meta").mkdir()
    with (root / "meta" / "esc50.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "fold", "target", "category", "esc10", "src_file", "take"])
        writer.writerows(
            [(n, fold, 0, label, "True", source, "A") for n, fold, label, source in rows]
        )
    return root


def test_esc50s_layout(tmp_path: Path) -> None:
    root = esc50(
        tmp_path,
        [("1-10-A-0.wav", 1, "dog", "10"), ("2-11-A-1.wav", 2, "door_wood_knock", "11")],
    )
    corpus = read_corpus(str(root))
    assert corpus.layout == "esc50"
    assert corpus.classes == ("dog", "door wood knock")
    assert corpus.folds == (1, 2)
    assert corpus.clips[0].uri == f"{root}/audio/1-10-A-0.wav"
    assert corpus.clips[1].source == "11"
    assert corpus.ignored == 1  # the CSV


def test_recordings_that_the_csv_does_not_list_are_counted(tmp_path: Path) -> None:
    root = esc50(tmp_path, [("1-10-A-0.wav", 1, "dog", "10"), ("2-11-A-1.wav", 2, "cat", "11")])
    touch(root, "audio/stray.wav")
    assert read_corpus(str(root)).ignored == 2


def test_one_folder_a_class_with_folds_in_esc10s_names(tmp_path: Path) -> None:
    root = touch(
        tmp_path,
        "001 - Dog bark/1-30226-A.ogg",
        "001 - Dog bark/2-30344-A.ogg",
        "002 - Rain/1-17367-A.ogg",
        "README.txt",
    )
    corpus = read_corpus(str(root))
    assert corpus.classes == ("Dog bark", "Rain")
    assert [c.fold for c in corpus.clips] == [1, 2, 1]
    assert corpus.clips[0].source == "30226"
    assert corpus.ignored == 1


def test_one_folder_a_class_without_folds(tmp_path: Path) -> None:
    root = touch(tmp_path, *[f"{c}/take {i} #{i}%.WAV" for c in "ab" for i in range(6)])
    corpus = read_corpus(str(root))
    assert corpus.folds == ()
    dealt = with_folds(corpus, 3)
    assert dealt.folds == (1, 2, 3)
    for fold in dealt.folds:
        labels = [c.label for c in dealt.clips if c.fold == fold]
        assert sorted(labels) == ["a", "a", "b", "b"]
    assert with_folds(corpus, 3) == dealt
    assert with_folds(corpus, 3, seed=1) != dealt


def test_numbers_are_taken_off_all_names_or_none(tmp_path: Path) -> None:
    root = touch(tmp_path, "2-stroke engine/a.wav", "4-stroke engine/b.wav", "7 - Rain/c.wav")
    assert read_corpus(str(root)).classes == ("2-stroke engine", "4-stroke engine", "7 - Rain")
    doubled = touch(tmp_path / "x", "1 - Rain/a.wav", "2 - Rain/b.wav", "3 - Dog/c.wav")
    with pytest.raises(CorpusError, match="two class folders have one name"):
        read_corpus(str(doubled))


def test_dealt_folds_keep_sources_together(tmp_path: Path) -> None:
    rows = [
        (f"{label}{s}{take}.wav", label, f"{label}{s}")
        for label in "ab"
        for s in range(6)
        for take in "xyz"
    ]
    pd.DataFrame(rows, columns=["uri", "label", "source"]).to_csv(tmp_path / "m.csv", index=False)
    dealt = with_folds(read_corpus(str(tmp_path / "m.csv")), 3)
    by_source: dict[str | None, set[int | None]] = {}
    for clip in dealt.clips:
        by_source.setdefault(clip.source, set()).add(clip.fold)
    assert all(len(folds) == 1 for folds in by_source.values())


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_manifests(tmp_path: Path, kind: str) -> None:
    frame = pd.DataFrame(
        {
            "uri": ["a.wav", "s3://bucket/b.flac", "/abs/c.wav"],
            "label": ["x", "y", "x"],
            "fold": [1, 2, 1],
            "source": ["p", "q", "r"],
        }
    )
    path = tmp_path / f"manifest.{kind}"
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    corpus = read_corpus(str(path))
    assert corpus.layout == "manifest"
    by_id = {clip.clip_id: clip for clip in corpus.clips}
    assert by_id["a.wav"].uri == f"{tmp_path}/a.wav"
    assert by_id["s3://bucket/b.flac"].uri == "s3://bucket/b.flac"
    assert by_id["/abs/c.wav"].uri == "/abs/c.wav"
    assert by_id["a.wav"].fold == 1


def test_a_source_in_two_folds_is_refused_with_the_clips(tmp_path: Path) -> None:
    root = touch(tmp_path, "dog/1-77-A.wav", "dog/2-77-B.wav", "cat/1-78-A.wav")
    with pytest.raises(CorpusError, match=r"source '77'.*1-77-A\.wav.*fold 1.*2-77-B\.wav.*fold 2"):
        read_corpus(str(root))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.wav,x\n", "no column uri"),
        ("uri,label\na.wav,x\na.wav,y\n", "listed twice"),
        ("uri,label\na.wav,x\nb.wav,  \n", "no label"),
        ("uri,label\na.wav,x\nb.wav,x\n", "1 classes"),
        ("uri,label,fold\na.wav,x,one\nb.wav,y,2\n", "'one' is not a whole number"),
        ("uri,label,fold\na.wav,x,1.0\nb.wav,y,\n", "some clips have a fold"),
        ("uri,label,fold\na.wav,x,1.5\nb.wav,y,1\n", "'1.5' is not a whole number"),
        ("uri,label,fold\na.wav,x,20260101120000\nb.wav,y,1\n", "has fold 20260101120000"),
        ("\x00\xff", "not a CSV"),
        ("uri,label\n", "0 classes"),
    ],
)
def test_bad_manifests_say_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CorpusError, match=message):
        read_corpus(str(path))


def test_what_is_no_corpus_says_what_one_is(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt", "loose.wav")
    with pytest.raises(CorpusError, match=r"expected meta/esc50\.csv.*manifest"):
        read_corpus(str(tmp_path))
    with pytest.raises(StorageError, match="not found"):
        read_corpus(str(tmp_path / "absent"))


def test_too_few_sources_for_the_folds_names_the_class(tmp_path: Path) -> None:
    root = touch(tmp_path, "a/1.wav", "a/2.wav", "a/3.wav", "b/1.wav", "b/2.wav")
    with pytest.raises(CorpusError, match="class 'b' has 2 sources"):
        with_folds(read_corpus(str(root)), 3)
