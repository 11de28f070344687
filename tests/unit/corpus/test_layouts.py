import csv
import os
from pathlib import Path

import pytest

from audiocnn import storage
from audiocnn.corpus.folds import with_folds
from audiocnn.corpus.read import LAYOUTS, read_corpus
from audiocnn.errors import CorpusError, StorageError

ODD = ["a#b.wav", "100%.wav", "x::y.wav", "new\nline.wav", 'quote".wav', "ü 音.wav", " lead.wav"]


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def table(path: Path, columns: str, *rows: tuple[object, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns.split(","), *rows])


def esc50(root: Path, *rows: tuple[str, int, str, str]) -> Path:
    """Write the files of ESC-50's repository, with rows of (name, fold, category, source)."""
    columns = "filename,fold,target,category,esc10,src_file,take"
    table(
        root / "meta/esc50.csv",
        columns,
        *[(name, fold, 0, label, "True", source, "A") for name, fold, label, source in rows],
    )
    return touch(root, "README.md", *[f"audio/{row[0]}" for row in rows])


URBAN = [  # rows of the published CSV
    ("100032-3-0-0.wav", 100032, 0.0, 0.317551, 1, 5, 3, "dog_bark"),
    ("100263-2-0-117.wav", 100263, 58.5, 62.5, 1, 5, 2, "children_playing"),
    ("100263-2-0-121.wav", 100263, 60.5, 64.5, 1, 5, 2, "children_playing"),
    ("100648-1-0-0.wav", 100648, 4.823402, 5.471927, 2, 10, 1, "car_horn"),
    ("99812-1-0-0.wav", 99812, 159.522205, 163.522205, 2, 7, 1, "car_horn"),
]


def urbansound8k(root: Path, rows: list[tuple[object, ...]]) -> Path:
    """Write the files that UrbanSound8K's archive unpacks to."""
    columns = "slice_file_name,fsID,start,end,salience,fold,classID,class"
    table(root / "metadata/UrbanSound8K.csv", columns, *rows)
    touch(root, "FREESOUNDCREDITS.txt", "UrbanSound8K_README.txt", "audio/fold1/.DS_Store")
    return touch(root, *[f"audio/fold{row[5]}/{row[0]}" for row in rows])


def speech_commands(root: Path) -> Path:
    """Write the files that the archive of Speech Commands v0.02 unpacks to."""
    touch(
        root,
        "LICENSE",
        "README.md",
        "_background_noise_/README.md",
        "_background_noise_/doing_the_dishes.wav",
        "_background_noise_/white_noise.wav",
        "right/0a7c2a8d_nohash_0.wav",
        "right/0a7c2a8d_nohash_1.wav",
        "right/a69b9b3e_nohash_0.wav",
        "yes/0a7c2a8d_nohash_0.wav",
        "yes/bb05582b_nohash_3.wav",
    )
    (root / "validation_list.txt").write_text("right/a69b9b3e_nohash_0.wav\n")
    (root / "testing_list.txt").write_text("yes/bb05582b_nohash_3.wav\n")
    return root


def test_esc50s_layout(tmp_path: Path) -> None:
    root = esc50(
        tmp_path,
        ("1-10-A-0.wav", 1, "dog", "10"),
        ("2-11-A-1.wav", 2, "door_wood_knock", "11"),
    )
    corpus = read_corpus(str(touch(root, "audio/stray.wav")))
    assert corpus.layout == "esc50"
    assert corpus.classes == ("dog", "door wood knock")
    assert corpus.folds == (1, 2)
    assert corpus.clips[0].uri == f"{root}/audio/1-10-A-0.wav"
    assert corpus.clips[1].clip_id == "2-11-A-1.wav"
    assert corpus.clips[1].source == "11"
    assert corpus.ignored == 3  # the CSV, the README, and the recording that is not in the CSV


def test_urbansound8ks_layout(tmp_path: Path) -> None:
    root = urbansound8k(tmp_path, URBAN)
    corpus = read_corpus(str(root))
    assert corpus.layout == "urbansound8k"
    assert corpus.classes == ("car horn", "children playing", "dog bark")
    assert [(c.clip_id, c.label, c.fold, c.source) for c in corpus.clips] == [
        ("100032-3-0-0.wav", "dog bark", 5, "100032"),
        ("100263-2-0-117.wav", "children playing", 5, "100263"),
        ("100263-2-0-121.wav", "children playing", 5, "100263"),
        ("100648-1-0-0.wav", "car horn", 10, "100648"),
        ("99812-1-0-0.wav", "car horn", 7, "99812"),
    ]
    assert corpus.clips[3].uri == f"{root}/audio/fold10/100648-1-0-0.wav"
    assert corpus.ignored == 4
    assert corpus.rejected == ()


def test_a_recording_that_the_csv_names_and_is_not_there_costs_its_row(tmp_path: Path) -> None:
    root = urbansound8k(tmp_path / "corpus", URBAN)
    (root / "audio/fold7/99812-1-0-0.wav").unlink()
    touch(tmp_path, "secret.wav")
    gone = ("../../../secret.wav", 1, 0, 1, 1, 5, 3, "dog_bark")
    with (root / "metadata/UrbanSound8K.csv").open("a", newline="") as file:
        csv.writer(file).writerow(gone)
    corpus = read_corpus(str(root))
    assert len(corpus.clips) == 4
    assert [(item.uri, item.reason) for item in corpus.rejected] == [
        (f"{root}/audio/fold5/../../../secret.wav", "unreadable"),
        (f"{root}/audio/fold7/99812-1-0-0.wav", "unreadable"),
    ]


def test_speech_commands_layout(tmp_path: Path) -> None:
    root = speech_commands(tmp_path)
    corpus = read_corpus(str(root))
    assert corpus.layout == "speechcommands"
    assert [(c.clip_id, c.label, c.fold, c.source) for c in corpus.clips] == [
        ("right/0a7c2a8d_nohash_0.wav", "right", 1, "0a7c2a8d"),
        ("right/0a7c2a8d_nohash_1.wav", "right", 1, "0a7c2a8d"),
        ("right/a69b9b3e_nohash_0.wav", "right", 2, "a69b9b3e"),
        ("yes/0a7c2a8d_nohash_0.wav", "yes", 1, "0a7c2a8d"),
        ("yes/bb05582b_nohash_3.wav", "yes", 3, "bb05582b"),
    ]
    assert corpus.ignored == 7  # two lists, two texts, three files in _background_noise_
    assert with_folds(corpus, 5) == corpus


def test_what_speech_commands_lists_and_lacks_costs_a_row(tmp_path: Path) -> None:
    root = speech_commands(tmp_path)
    (root / "testing_list.txt").write_text("yes/bb05582b_nohash_3.wav\r\nyes/gone_nohash_0.wav\r\n")
    corpus = read_corpus(str(root))
    assert [(item.uri, item.reason) for item in corpus.rejected] == [
        (f"{root}/yes/gone_nohash_0.wav", "unreadable")
    ]
    assert corpus.clips[-1].fold == 3
    (root / "testing_list.txt").write_bytes(b"\xff\n")
    with pytest.raises(CorpusError, match=r"testing_list\.txt: not in UTF-8"):
        read_corpus(str(root))


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
    for fold in (1, 2, 3):
        labels = [c.label for c in dealt.clips if c.fold == fold]
        assert sorted(labels) == ["a", "a", "b", "b"]


def test_numbers_are_taken_off_all_names_or_none(tmp_path: Path) -> None:
    root = touch(tmp_path, "2-stroke engine/a.wav", "4-stroke engine/b.wav", "7 - Rain/c.wav")
    assert read_corpus(str(root)).classes == ("2-stroke engine", "4-stroke engine", "7 - Rain")
    doubled = touch(tmp_path / "x", "1 - Rain/a.wav", "2 - Rain/b.wav", "3 - Dog/c.wav")
    with pytest.raises(CorpusError, match="two class folders have the same name"):
        read_corpus(str(doubled))


def test_a_folder_without_a_name_costs_its_recordings(tmp_path: Path) -> None:
    corpus = read_corpus(str(touch(tmp_path, "a/1.wav", "b/1.wav", " /1.wav", " /2.wav")))
    assert corpus.classes == ("a", "b")
    assert [item.reason for item in corpus.rejected] == ["label", "label"]


def read(root: Path, *names: str) -> dict[str, tuple[str, int | None]]:
    """Return the class and fold of each clip."""
    corpus = read_corpus(str(touch(root, *names)))
    assert corpus.rejected == ()
    return {clip.clip_id: (clip.label, clip.fold) for clip in corpus.clips}


def test_folders_named_train_and_test_are_folds_and_not_classes(tmp_path: Path) -> None:
    names = [f"{s}/{c}/{n}.wav" for s in ("train", "test") for c in ("dog", "cat") for n in "12"]
    expected = {name: (name.split("/")[1], {"train": 1, "test": 3}[name[: name.index("/")]])
                for name in names}  # fmt: skip
    assert read(tmp_path / "split", *names) == expected
    (remark,) = read_corpus(str(tmp_path / "split")).remarks
    assert remark == "the folds are folders: 1 is train, 3 is test"
    # This also holds below common folders, and if one split lacks a class.
    above = read(tmp_path / "above", *[f"my data/audio/{name}" for name in names[:-2]])
    assert above == {f"my data/audio/{name}": expected[name] for name in names[:-2]}


@pytest.mark.parametrize(
    ("folds", "numbers"),
    [
        (("Training", "Validation", "Testing"), (1, 2, 3)),
        (("train", "val"), (1, 2)),
        (("dev", "eval"), (2, 3)),
        (("fold1", "fold2", "fold10"), (1, 2, 10)),
        (("Fold-3", "fold_4"), (3, 4)),
    ],
)
def test_folds_by_folder_have_numbers(
    tmp_path: Path, folds: tuple[str, ...], numbers: tuple[int, ...]
) -> None:
    for inner in (False, True):
        names = {
            (f"{c}/{f}/1.wav" if inner else f"{f}/{c}/1.wav"): (c, n)
            for f, n in zip(folds, numbers, strict=True)
            for c in ("dog", "cat")
        }
        assert read(tmp_path / str(inner), *names) == names


def test_the_innermost_folder_is_the_class_where_all_have_the_same(tmp_path: Path) -> None:
    names = [f"{site}/{c}/{n}.wav" for site in ("north", "south") for c in ("dog", "cat")
             for n in "123"]  # fmt: skip
    assert set(read(tmp_path / "a", *names).values()) == {("dog", None), ("cat", None)}
    (remark,) = read_corpus(str(tmp_path / "a")).remarks
    assert remark.startswith("classes are the innermost folders, the same in each of north, south")
    numbered = [f"{s}/{c}/1.wav" for s in "ab" for c in ("001 - Dog bark", "002 - Rain")]
    assert {label for label, _ in read(tmp_path / "b", *numbered).values()} == {"Dog bark", "Rain"}
    deep = [f"train/2026/{name}" for name in names] + [f"test/2026/{name}" for name in names]
    assert set(read(tmp_path / "c", *deep).values()) == {
        (label, fold) for label in ("dog", "cat") for fold in (1, 3)
    }


def test_otherwise_the_outermost_folder_is_the_class(tmp_path: Path) -> None:
    assert read(tmp_path / "a", "dog/monday/1.wav", "dog/2.wav", "cat/tuesday/3.wav") == {
        "dog/monday/1.wav": ("dog", None),
        "dog/2.wav": ("dog", None),
        "cat/tuesday/3.wav": ("cat", None),
    }
    (remark,) = read_corpus(str(tmp_path / "a")).remarks
    assert remark.startswith("classes are the outermost folders")
    flat = read(tmp_path / "b", "train/1.wav", "church bells/2.wav", "test/3.wav")
    assert {label for label, _ in flat.values()} == {"train", "church bells", "test"}
    assert read_corpus(str(tmp_path / "b")).remarks == ()


def test_a_folder_beside_those_of_folds_makes_them_classes_and_that_is_said(
    tmp_path: Path,
) -> None:
    names = [f"{top}/{name}/1.wav" for top in ("train", "test") for name in ("dog", "cat")]
    folders = [f"extra{number}/dog/1.wav" for number in range(20)]
    corpus = read_corpus(str(touch(tmp_path, *names, *folders)))
    assert {"train", "test", "extra7"} <= set(corpus.classes)
    (remark,) = corpus.remarks
    assert remark.startswith("test, train are not folds, because they are beside extra0, ")
    assert " and 12 more (use a manifest" in remark


def test_a_folder_beside_those_of_folds_in_a_class_is_said_too(tmp_path: Path) -> None:
    names = [f"{name}/{fold}/1.wav" for name in ("dog", "cat") for fold in ("train", "test")]
    assert {fold for _, fold in read(tmp_path / "a", *names).values()} == {1, 3}
    found = read(tmp_path / "b", *names, "cat/misc/1.wav")
    assert set(found.values()) == {("dog", None), ("cat", None)}
    (remark,) = read_corpus(str(tmp_path / "b")).remarks
    assert remark.startswith("test, train are not folds, because they are beside misc (")


def test_a_recording_beside_its_class_folders_costs_its_row(tmp_path: Path) -> None:
    stray = ["train/1.wav", "data/2.wav"]
    for at, top in enumerate(("train", "data")):
        names = [f"{top}/dog/1.wav", f"{top}/cat/1.wav"]
        names += ["test/dog/1.wav", "test/cat/1.wav"] if top == "train" else []
        corpus = read_corpus(str(touch(tmp_path / top, *names, stray[at])))
        assert corpus.classes == ("cat", "dog")
        assert [(item.uri, item.reason) for item in corpus.rejected] == [
            (f"{tmp_path}/{top}/{stray[at]}", "label")
        ]


def test_a_source_in_two_folds_is_refused_with_the_clips(tmp_path: Path) -> None:
    root = touch(tmp_path, "dog/1-77-A.wav", "dog/2-77-B.wav", "cat/1-78-A.wav")
    with pytest.raises(CorpusError, match=r"source '77'.*1-77-A\.wav.*fold 1.*2-77-B\.wav.*fold 2"):
        read_corpus(str(root))


def odd_esc50(root: Path) -> Path:
    return esc50(root, *[(name, 1, "ab"[i % 2], str(i)) for i, name in enumerate(ODD)])


def odd_urbansound8k(root: Path) -> Path:
    rows = [(name, i, 0, 1, 1, 3, 0, "ab"[i % 2]) for i, name in enumerate(ODD)]
    return urbansound8k(root, rows)


def odd_speech_commands(root: Path) -> Path:
    return touch(speech_commands(root), *[f"right/{name}" for name in ODD])


def odd_folders(root: Path) -> Path:
    return touch(root, *[f"class {name[:-4]}/{name}" for name in ODD])


@pytest.mark.parametrize(
    "make",
    [odd_esc50, odd_urbansound8k, odd_speech_commands, odd_folders],
    ids=lambda f: f.__name__,
)
def test_odd_names_are_listed_and_can_be_read(make: object, tmp_path: Path) -> None:
    corpus = read_corpus(str(make(tmp_path)))  # type: ignore[operator]
    assert corpus.rejected == ()
    assert {clip.uri.rsplit("/", 1)[-1] for clip in corpus.clips} >= set(ODD)
    for clip in corpus.clips:
        assert storage.read_bytes(clip.uri) == b"x"


def test_listed_clips_have_a_size_and_a_version_that_a_change_changes(tmp_path: Path) -> None:
    root = touch(tmp_path, "a/1.wav", "a/2.wav", "b/1.wav")
    before = {clip.clip_id: clip for clip in read_corpus(str(root)).clips}
    assert {clip.size for clip in before.values()} == {1}
    (root / "a/1.wav").write_bytes(b"longer")
    status = (root / "a/2.wav").stat()
    os.utime(root / "a/2.wav", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    after = {clip.clip_id: clip for clip in read_corpus(str(root)).clips}
    changed = {name for name in before if before[name].version != after[name].version}
    assert changed == {"a/1.wav", "a/2.wav"}
    assert after["a/1.wav"].size == 6


def test_what_is_no_corpus_says_what_one_is(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt", "loose.wav")
    with pytest.raises(CorpusError, match="not a corpus: expected") as caught:
        read_corpus(str(tmp_path))
    assert all(layout.looks in str(caught.value) for layout in LAYOUTS)
    for file in (str(tmp_path / "loose.wav"), "memory://files/loose.wav"):
        storage.write_bytes(file, b"x")
        with pytest.raises(CorpusError, match="a file, and not a corpus: expected a manifest"):
            read_corpus(file)
    with pytest.raises(StorageError, match="not found"):
        read_corpus(str(tmp_path / "absent"))
    with pytest.raises(StorageError, match="not found"):
        read_corpus(str(tmp_path / "absent.tar"))
