import os
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from audiocnn import storage
from audiocnn.corpus.clips import Clip, Corpus
from audiocnn.corpus.folds import with_folds
from audiocnn.corpus.read import read_corpus
from audiocnn.errors import FAILURE_REASONS, CorpusError

GOOD = [("good 1.wav", "x"), ("good 2.wav", "y")]


def manifest(path: Path | str, rows: list[tuple[str, ...]], *more: str) -> str:
    """Write a CSV with columns uri, label and `more`, and with two good rows; return its URI."""
    with_good = [(*row, *[""] * (2 + len(more) - len(row))) for row in [*rows, *GOOD]]
    frame = pd.DataFrame(with_good, columns=["uri", "label", *more])
    storage.write_bytes(str(path), frame.to_csv(index=False).encode())
    return str(path)


def reasons(corpus: Corpus) -> dict[str, str]:
    assert all(item.reason in FAILURE_REASONS and item.detail for item in corpus.rejected)
    return {item.uri: item.reason for item in corpus.rejected}


@pytest.mark.parametrize("kind", ["csv", "CSV", "tsv", "Tsv", "parquet", "PARQUET"])
def test_manifests(tmp_path: Path, kind: str) -> None:
    frame = pd.DataFrame(
        {
            "uri": ["a.wav", "s3://bucket/b.flac", "/abs/c.wav", "file:///abs/d.wav"],
            "label": ["x", "y", "x", "y"],
            "fold": [1, 2, 1, 0],
            "source": ["p", "q", "r", "s"],
        }
    )
    path = tmp_path / f"manifest.{kind}"
    if kind.lower() == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if kind.lower() == "tsv" else ",")
    corpus = read_corpus(str(path))
    assert corpus.layout == "manifest"
    assert corpus.rejected == ()
    assert {clip.clip_id: clip.uri for clip in corpus.clips} == {
        "a.wav": f"{tmp_path}/a.wav",
        "s3://bucket/b.flac": "s3://bucket/b.flac",
        "/abs/c.wav": "/abs/c.wav",
        "file:///abs/d.wav": "/abs/d.wav",
    }
    by_id = {clip.clip_id: clip for clip in corpus.clips}
    assert (by_id["a.wav"].fold, by_id["a.wav"].source) == (1, "p")
    assert by_id["file:///abs/d.wav"].fold == 0
    assert (by_id["a.wav"].version, by_id["a.wav"].size) == (None, None)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("bad.wav", ""), "label"),
        (("bad.wav", " \t "), "label"),
        (("../bad.wav", "x"), "path"),
        (("sub/../../bad.wav", "x"), "path"),
        (("sub/..", "x"), "path"),
        ((".", "x"), "path"),
        (("", "x"), "path"),
        (("  ", "x"), "path"),
        (("nul\0.wav", "x"), "path"),
        (("sub/../in.wav", "x"), None),
        (("..hidden.wav", "x"), None),
        (("new\nline.wav", "x\ny"), None),
        (('"quoted", ü 音 #%::.wav', 'a "quoted", ü 音'), None),
    ],
)
def test_a_bad_row_of_a_manifest_costs_itself(
    tmp_path: Path, row: tuple[str, str], reason: str | None
) -> None:
    corpus = read_corpus(manifest(tmp_path / "m.csv", [row]))
    listed = {clip.clip_id: clip.label for clip in corpus.clips}
    if reason:
        assert list(reasons(corpus).values()) == [reason]
        assert listed == dict(GOOD)
    else:
        assert listed == {**dict(GOOD), row[0]: row[1]}


@pytest.mark.parametrize(
    ("fold", "usable"),
    [("1", True), ("1.0", True), ("0", True), ("2147483647", True), ("one", False),
     ("1.5", False), ("-1", False), ("2147483648", False), ("nan", False), ("inf", False),
     ("1e300", False), ("20260101120000", False)],
)  # fmt: skip
def test_folds_are_whole_numbers(tmp_path: Path, fold: str, usable: bool) -> None:
    path = tmp_path / "m.csv"
    path.write_text(f"uri,label,fold\na.wav,x,1\nb.wav,y,2\nc.wav,x,{fold}\n")
    corpus = read_corpus(str(path))
    assert reasons(corpus) == ({} if usable else {f"{tmp_path}/c.wav": "fold"})
    assert len(corpus.clips) == 2 + usable


def test_of_a_clip_that_is_listed_twice_the_first_is_used(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("uri,label\nb.wav,x\na.wav,y\nb.wav,z\n./a.wav,z\na.wav,y\n")
    corpus = read_corpus(str(path))
    assert [(clip.clip_id, clip.label) for clip in corpus.clips] == [("a.wav", "y"), ("b.wav", "x")]
    assert Counter(item.uri for item in corpus.rejected) == {
        f"{tmp_path}/a.wav": 2,
        f"{tmp_path}/b.wav": 1,
    }
    assert {item.reason for item in corpus.rejected} == {"duplicate"}
    assert "'z'" in corpus.rejected[-1].detail


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_row_with_times_is_a_segment_of_its_recording(tmp_path: Path, kind: str) -> None:
    rows = [
        ("long.wav", "x", 0.5, 3.0),
        ("long.wav", "y", 3.0, 4.25),
        ("long.wav", "x", None, None),
    ]
    frame = pd.DataFrame(rows, columns=["uri", "label", "onset_s", "offset_s"])
    path = tmp_path / f"m.{kind}"
    if kind.lower() == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if kind.lower() == "tsv" else ",")
    corpus = read_corpus(str(path))
    assert corpus.rejected == ()
    assert {clip.clip_id: clip.segment for clip in corpus.clips} == {
        "long.wav": None,
        "long.wav#t=0.5,3.0": (0.5, 3.0),
        "long.wav#t=3.0,4.25": (3.0, 4.25),
    }
    cut = [clip for clip in corpus.clips if clip.segment]
    assert {clip.uri for clip in cut} == {f"{tmp_path}/long.wav"}
    assert {clip.source for clip in cut} == {"long.wav"}  # all segments get the same fold


@pytest.mark.parametrize(
    "times",
    [("1", ""), ("", "1"), ("2", "1"), ("1", "1"), ("-1", "1"), ("0", "inf"), ("nan", "1"),
     ("a", "b")],
)  # fmt: skip
def test_a_segment_is_a_stretch_of_time(tmp_path: Path, times: tuple[str, str]) -> None:
    corpus = read_corpus(
        manifest(tmp_path / "m.csv", [("a.wav", "x", *times)], "onset_s", "offset_s")
    )
    assert list(reasons(corpus).values()) == ["segment"]
    assert len(corpus.clips) == 2


def test_a_segment_that_is_listed_twice_is_one_clip(tmp_path: Path) -> None:
    rows = [("a.wav", "x", "1", "2"), ("./a.wav", "y", "1.0", "2.0"), ("a.wav", "y", "1", "3")]
    corpus = read_corpus(manifest(tmp_path / "m.csv", rows, "onset_s", "offset_s"))
    assert list(reasons(corpus).values()) == ["duplicate"]
    assert [clip.segment for clip in corpus.clips if clip.segment] == [(1.0, 2.0), (1.0, 3.0)]


def test_a_manifest_elsewhere_names_no_files_of_this_machine() -> None:
    local = ["/etc/passwd", "file:///etc/passwd", "local:///etc/passwd", "zip://x::file:///a.zip"]
    rows = [(name, "x") for name in [*local, "../up.wav", "s3://other/fine.wav"]]
    corpus = read_corpus(manifest("memory://manifests/folder/m.csv", rows))
    assert reasons(corpus) == dict.fromkeys([*local, "../up.wav"], "path")
    assert [clip.uri for clip in corpus.clips] == [
        "memory://manifests/folder/good 1.wav",
        "memory://manifests/folder/good 2.wav",
        "s3://other/fine.wav",
    ]


def test_what_is_not_utf8_in_parquet_costs_its_row(tmp_path: Path) -> None:
    def text(*values: bytes) -> pa.Array:
        return pa.array(values, pa.binary()).cast(pa.string(), safe=False)

    table = pa.table(
        {
            "uri": text(b"a.wav", b"b.wav", b"c.wav", b"d\xff.wav", b"e.wav"),
            "label": text(b"x", b"y", b"z\xff", b"x", b"x"),
            "source": text(b"1", b"2", b"3", b"4", b"\xff"),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "m.parquet")
    corpus = read_corpus(str(tmp_path / "m.parquet"))
    assert [clip.clip_id for clip in corpus.clips] == ["a.wav", "b.wav"]
    assert reasons(corpus) == {
        f"{tmp_path}/c.wav": "label",
        f"{tmp_path}/d\\udcff.wav": "path",
        f"{tmp_path}/e.wav": "label",
    }


def test_nulls_in_parquet_are_nothing(tmp_path: Path) -> None:
    table = pa.table({"uri": ["a.wav", "b.wav", None, "c.wav"], "label": [1, 2, 1, None]})
    pyarrow.parquet.write_table(table, tmp_path / "m.parquet")
    corpus = read_corpus(str(tmp_path / "m.parquet"))
    assert corpus.classes == ("1", "2")
    assert sorted(reasons(corpus).values()) == ["label", "path"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.wav,x\n", "no column uri"),
        ("uri,label\na.wav,x\nb.wav,  \n", r"1 classes.*b\.wav.*no label"),
        ("uri,label\na.wav,x\nb.wav,x\n", "1 classes"),
        ("uri,label,fold\na.wav,x,1.0\nb.wav,y,\n", "some clips have a fold"),
        ("\x00\xff", "not in UTF-8"),
        ('uri,label\n"a.wav,x\n', "not a CSV"),
        ("uri,label\n", "0 classes"),
        ("uri,label\na.wav,x\nb.wav,unknown\n", "'unknown' cannot be a class"),
        ("uri,label,fold,source\na,x,1,s\nb,y,2,s\n", r"source 's'.*'a' in fold 1, 'b' in fold 2"),
    ],
)
def test_what_is_wrong_with_all_of_it_refuses_it(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CorpusError, match=message):
        read_corpus(str(path))


def test_names_that_are_not_utf8_cost_their_files(tmp_path: Path) -> None:
    for name in (b"a/1.wav", b"b/1.wav", b"b/\xff.wav", b"\xff/1.wav"):
        path = os.path.join(os.fsencode(tmp_path), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(os.fsdecode(path)).write_bytes(b"x")
    corpus = read_corpus(str(tmp_path))
    assert corpus.classes == ("a", "b")
    assert [item.reason for item in corpus.rejected] == ["path", "path"]
    assert all(item.uri.encode() for item in corpus.rejected)
    assert corpus.ignored == 0


def clips(*sizes: tuple[str, str, int]) -> Corpus:
    """Return a corpus from triples (class, source, number of clips)."""
    made = [
        Clip(clip_id=f"{label}/{source}-{i}", uri="", label=label, source=source or None)
        for label, source, count in sizes
        for i in range(count)
    ]
    return Corpus(uri="corpus", layout="test", clips=tuple(made))


def single(classes: str, count: int, start: int = 0) -> Corpus:
    """Return a corpus with `count` sources in each class, each with one clip."""
    return clips(*[(c, f"{c}{i}", 1) for c in classes for i in range(start, start + count)])


def folds(corpus: Corpus) -> dict[str, int | None]:
    return {clip.clip_id: clip.fold for clip in corpus.clips}


@pytest.mark.parametrize("n_folds", [2, 3, 5, 10])
def test_dealt_folds_are_balanced_to_one_clip_of_each_class(n_folds: int) -> None:
    corpus = single("abcdefg", 23)
    counts = Counter((clip.label, clip.fold) for clip in with_folds(corpus, n_folds).clips)
    for label in corpus.classes:
        of_class = [counts[label, fold] for fold in range(1, n_folds + 1)]
        assert max(of_class) - min(of_class) <= 1
    in_all = Counter(clip.fold for clip in with_folds(corpus, n_folds).clips)
    assert max(in_all.values()) - min(in_all.values()) <= 1


def test_dealt_folds_keep_sources_together_whatever_their_sizes() -> None:
    rng = random.Random(0)
    corpus = clips(*[(c, f"{c}{i}", rng.randint(1, 9)) for c in "abc" for i in range(40)])
    dealt = with_folds(corpus, 5)
    assert dealt.folds == (1, 2, 3, 4, 5)
    assert len({(clip.source, clip.fold) for clip in dealt.clips}) == 120
    counts = Counter((clip.label, clip.fold) for clip in dealt.clips)
    for label in "abc":
        of_class = [counts[label, fold] for fold in dealt.folds]
        assert max(of_class) - min(of_class) <= 2  # the smallest sources are dealt last


def test_dealt_folds_depend_on_the_seed_and_on_no_order() -> None:
    corpus = single("ab", 30)
    shuffled = list(corpus.clips)
    random.Random(1).shuffle(shuffled)
    assert folds(with_folds(replace(corpus, clips=tuple(shuffled)), 3)) == folds(
        with_folds(corpus, 3)
    )
    assert folds(with_folds(corpus, 3, seed=1)) != folds(with_folds(corpus, 3))


def test_a_corpus_that_grew_keeps_its_folds() -> None:
    before = with_folds(single("ab", 20), 4)
    kept = {name: fold for name, fold in folds(before).items() if fold is not None}
    grown = clips(
        *[(c, f"{c}{i}", 1) for c in "ab" for i in range(20)],
        *[("a", f"a{i}", 3) for i in range(20, 33)],
        *[("c", f"c{i}", 1) for i in range(8)],
    )
    known = Clip(clip_id="a/another take", uri="", label="a", source="a7")
    grown = replace(grown, clips=(*grown.clips, known))
    after = with_folds(grown, 4, kept=kept)
    assert {name: folds(after)[name] for name in kept} == kept
    assert folds(after)["a/another take"] == kept["a/a7-0"]
    counts = Counter((clip.label, clip.fold) for clip in after.clips)
    assert [counts["c", fold] for fold in after.folds] == [2, 2, 2, 2]
    of_class = [counts["a", fold] for fold in after.folds]
    assert max(of_class) - min(of_class) <= 3
    assert after == with_folds(grown, 4, kept=kept)


def test_clips_without_a_source_are_dealt_and_kept_by_their_names() -> None:
    corpus = clips(("a", "", 9), ("b", "", 9))
    dealt = with_folds(corpus, 3)
    assert Counter(clip.fold for clip in dealt.clips) == {1: 6, 2: 6, 3: 6}
    kept = {"a/-3": 2, "gone": 1}
    assert folds(with_folds(corpus, 3, kept=kept))["a/-3"] == 2


def test_kept_folds_that_cannot_be_are_refused() -> None:
    corpus = single("ab", 6)
    with pytest.raises(CorpusError, match="'a/a1-0' was in fold 5, but there are 3 folds"):
        with_folds(corpus, 3, kept={"a/a1-0": 5})
    pairs = clips(*[("a", f"a{i}", 2) for i in range(6)], *[("b", f"b{i}", 2) for i in range(6)])
    with pytest.raises(CorpusError, match="source 'a1' is in 2 folds"):
        with_folds(pairs, 3, kept={"a/a1-0": 1, "a/a1-1": 2})


def test_a_corpus_with_folds_keeps_them() -> None:
    corpus = single("ab", 2)
    own = replace(corpus, clips=tuple(replace(clip, fold=7) for clip in corpus.clips))
    assert with_folds(own, 3, kept={"a/a0-0": 1}) == own


def test_too_few_sources_for_the_folds_names_the_class() -> None:
    corpus = clips(*[("a", f"a{i}", 1) for i in range(3)], ("b", "b0", 5), ("b", "b1", 1))
    with pytest.raises(CorpusError, match="class 'b' has 2 sources"):
        with_folds(corpus, 3)
