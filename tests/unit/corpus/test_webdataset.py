import io
import tarfile
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from audiocnn import storage
from audiocnn.audio.recording import Archive
from audiocnn.corpus.clips import Corpus
from audiocnn.corpus.read import read_corpus
from audiocnn.errors import FAILURE_REASONS, CorpusError, StorageError
from audiocnn.storage import listing
from helpers.tars import tar

SOUND = b"RIFF" + bytes(2000)


GOOD = [("1.wav", SOUND), ("1.cls", b"dog"), ("2.wav", SOUND), ("2.cls", b"cat")]


def shard(tmp_path: Path, members: list[tuple[str, bytes]]) -> Corpus:
    """Return a corpus of one tar: two good samples, and then these members."""
    (tmp_path / "s.tar").write_bytes(tar([*GOOD, *members]))
    return read_corpus(str(tmp_path))


def rows(corpus: Corpus) -> dict[str, str]:
    assert all(item.reason in FAILURE_REASONS and item.detail for item in corpus.rejected)
    return {Path(item.uri).name: item.reason for item in corpus.rejected}


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_webdatasets_layout(tmp_path: Path, kind: int) -> None:
    long = "folder.with.dots/" + "long" * 20
    first = [
        ("000.cls", b"dog\n"),
        ("000.flac", b"fLaC-000"),
        ("000.txt", b"A dog barks."),
        ("001.WAV", b"RIFF-001"),
        ("001.json", b'{"label": "cat", "fold": 2, "source": "s1", "text": "more"}'),
    ]
    second = [
        (f"{long}.ogg", b"OggS"),
        (f"{long}.json", b'{"class": 7, "fold": "1", "source": 12}'),
        ("002.mp3", b"ID3"),
        ("002.json", b'{"category": "cat", "fold": 2.0}'),
        ("002.cls", b"dog"),
    ]
    (tmp_path / "train").mkdir()
    first[0:1] = [("000.cls", b"dog\n"), ("000.json", b'{"fold": 1}')]
    (tmp_path / "train" / "shard-000000.tar").write_bytes(tar(first, kind))
    (tmp_path / "train" / "shard-000001.tar").write_bytes(tar(second, kind))
    (tmp_path / "README.md").write_text("a corpus")
    corpus = read_corpus(str(tmp_path))
    assert corpus.layout == "webdataset"
    assert corpus.rejected == ()
    assert corpus.ignored == 1
    assert {c.clip_id: (c.label, c.fold, c.source) for c in corpus.clips} == {
        "train/shard-000000.tar/000.flac": ("dog", 1, None),
        "train/shard-000000.tar/001.WAV": ("cat", 2, "s1"),
        f"train/shard-000001.tar/{long}.ogg": ("7", 1, "12"),
        "train/shard-000001.tar/002.mp3": ("dog", 2, None),
    }
    sounds = {name: data for name, data in first + second}
    for clip in corpus.clips:
        assert clip.archive is not None
        assert clip.uri == f"{clip.archive.uri}/{clip.clip_id.split('.tar/')[1]}"
        held = Path(clip.archive.uri).read_bytes()[clip.archive.offset :][: clip.archive.size]
        assert held == sounds[clip.clip_id.split(".tar/")[1]]
        assert clip.size == len(held)
        listed = {file.uri: file.version for file in listing.list_files(str(tmp_path))}
        assert clip.version == listed[clip.archive.uri]


def test_one_tar_is_a_corpus(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(tar(GOOD))
    corpus = read_corpus(str(path))
    assert [clip.clip_id for clip in corpus.clips] == ["s.tar/1.wav", "s.tar/2.wav"]
    assert corpus.clips[0].archive == Archive(uri=str(path), offset=512, size=len(SOUND))
    assert corpus.ignored == 0
    assert corpus.clips == read_corpus(str(tmp_path)).clips


def test_odd_names_are_listed(tmp_path: Path) -> None:
    names = ["a#b", "100%", "x::y", "new\nline", 'quote"', "ü 音", " lead", "folder\n.x/in"]
    members = [m for name in names for m in [(f"{name}.wav", SOUND), (f"{name}.cls", b"odd")]]
    corpus = shard(tmp_path, members)
    assert {c.clip_id for c in corpus.clips} >= {f"s.tar/{name}.wav" for name in names}
    assert corpus.rejected == ()


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([("3.wav", SOUND)], {"3.wav": "label"}),
        ([("3.cls", b"dog")], {"3.cls": "label"}),
        ([("3.json", b'{"label": "dog"}'), ("3.txt", b"")], {"3.json": "label"}),
        ([("3.wav", SOUND), ("3.cls", b" \n")], {"3.wav": "label"}),
        ([("3.wav", SOUND), ("3.cls", b"\xff")], {"3.wav": "label"}),
        ([("3.wav", SOUND), ("3.json", b"{")], {"3.wav": "label"}),
        ([("3.wav", SOUND), ("3.json", b"[" * 100_000)], {"3.wav": "label"}),
        ([("3.wav", SOUND), ("3.json", b'["dog"]')], {"3.wav": "label"}),
        ([("3.wav", SOUND), ("3.json", b'{"label": ["dog"]}')], {"3.wav": "label"}),
        ([("3.wav", SOUND), ("3.json", b'{"label": null}')], {"3.wav": "label"}),
        ([("3.wav", SOUND), ("3.json", b'{"label": "\\ud800"}')], {"3.wav": "label"}),
        ([("3.wav", SOUND), ("3.json", b'{"text": "a dog"}')], {"3.wav": "label"}),
        ([("3.wav", SOUND), ("3.cls", bytes((1 << 20) + 1))], {"3.wav": "label"}),
        ([("3.wav", SOUND), ("3.json", b'{"label": "x", "fold": true}')], {"3.wav": "fold"}),
        ([("3.wav", SOUND), ("3.json", b'{"label": "x", "fold": 1.5}')], {"3.wav": "fold"}),
        ([("1.wav", SOUND)], {"1.wav": "duplicate"}),
        ([("3\udcff.wav", SOUND), ("3\udcff.cls", b"dog")], {"3\\udcff.wav": "path"}),
    ],
)  # fmt: skip
def test_a_bad_sample_costs_itself(
    tmp_path: Path, members: list[tuple[str, bytes]], expected: dict[str, str]
) -> None:
    corpus = shard(tmp_path, members)
    assert rows(corpus) == expected
    assert [clip.clip_id for clip in corpus.clips] == ["s.tar/1.wav", "s.tar/2.wav"]
    assert corpus.ignored == 0


def test_takes_of_one_sample_share_its_label_and_source(tmp_path: Path) -> None:
    corpus = shard(
        tmp_path,
        [("3.left.wav", SOUND), ("3.right.wav", SOUND), ("3.cls", b"dog"), (".x.wav", b"")],
    )
    takes = [clip for clip in corpus.clips if "3." in clip.clip_id]
    assert [(clip.label, clip.source) for clip in takes] == [("dog", "s.tar/3")] * 2


def test_links_folders_and_sparse_files_are_no_clips(tmp_path: Path) -> None:
    buffer = io.BytesIO(tar(GOOD))
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        for name, kind in [
            ("3.wav", tarfile.SYMTYPE),
            ("4.wav", tarfile.LNKTYPE),
            ("5.wav", tarfile.DIRTYPE),
            ("6.wav", tarfile.FIFOTYPE),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "1.wav"
            archive.addfile(info)
        sparse = tarfile.TarInfo("7.wav")
        sparse.pax_headers = {
            "GNU.sparse.size": "5",
            "GNU.sparse.map": "0,5",
            "GNU.sparse.major": "0",
        }
        sparse.size = 5
        archive.addfile(sparse, io.BytesIO(b"12345"))
        for number in range(3, 8):
            info = tarfile.TarInfo(f"{number}.cls")
            info.size = 3
            archive.addfile(info, io.BytesIO(b"dog"))
    (tmp_path / "s.tar").write_bytes(buffer.getvalue())
    corpus = read_corpus(str(tmp_path))
    assert [clip.clip_id for clip in corpus.clips] == ["s.tar/1.wav", "s.tar/2.wav"]
    assert rows(corpus) == {f"{number}.cls": "label" for number in range(3, 8)}


def test_a_tar_that_was_cut_anywhere_gives_what_is_whole_and_says_so(tmp_path: Path) -> None:
    members = [(f"{i}.{kind}", data) for i in range(6) for kind, data in
               [("cls", b"dog" if i % 2 else b"cat"), ("wav", bytes([i]) * 700)]]  # fmt: skip
    whole = tar(members, tarfile.GNU_FORMAT)
    end = 6 * (2 * 512 + 512 + 1024)  # end of the last member; the end mark follows
    cuts = [*range(4 * 2560, end + 512, 512), *range(4 * 2560 + 100, end + 512, 512), end - 1]
    for cut in sorted(cuts):
        (tmp_path / "s.tar").write_bytes(whole[:cut])
        corpus = read_corpus(str(tmp_path))
        count = sum(cut >= 2560 * (i + 1) - 324 for i in range(6))  # padding may be missing
        assert len(corpus.clips) == count, cut
        assert rows(corpus)["s.tar"] == "truncated", cut
    (tmp_path / "s.tar").write_bytes(whole[: end + 512])
    assert read_corpus(str(tmp_path)).rejected == ()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"not a tar, but a text " * 100, "unrecognised"),
        (tar(GOOD)[:100], "unrecognised"),
        (tar(GOOD) + tar(GOOD), "unreadable"),
        (tar(GOOD)[: 4 * 1024] + b"garbage!" * 512, "unreadable"),
    ],
)
def test_a_damaged_tar_costs_a_row_and_the_others_are_used(
    tmp_path: Path, data: bytes, reason: str
) -> None:
    (tmp_path / "bad.tar").write_bytes(data)
    (tmp_path / "good.tar").write_bytes(tar([("8.wav", b""), ("8.cls", b"a"), *GOOD]))
    corpus = read_corpus(str(tmp_path))
    assert rows(corpus)["bad.tar"] == reason
    assert {clip.label for clip in corpus.clips} >= {"dog", "cat", "a"}
    assert corpus.ignored == 0


def header(name: str, size: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return a tar header with any bytes in its size field."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "lie",
    [
        header("3.wav", b"\xff" * 10 + b"\xfc\x00"),  # -1024: it leads backwards
        header("3.wav", b"\xff" * 12),
        header("3.wav", b"\x80" + bytes(3) + b"\xff" * 8),  # more bytes than the tar has
        header("3", b"77777777777\0", tarfile.GNUTYPE_LONGNAME),  # a name of 8 GB
        header("3", b"\xff" * 10 + b"\xfc\x00", tarfile.GNUTYPE_LONGNAME),
        (header("x", b"00000000006\0", b"x") + b"6 a=b\n".ljust(512, b"\0")) * 3000,
    ],
    ids=["back", "negative", "beyond", "name", "negative-name", "nested"],
)
def test_headers_that_lie_end_the_tar(tmp_path: Path, lie: bytes) -> None:
    (tmp_path / "s.tar").write_bytes(tar(GOOD, tarfile.GNU_FORMAT)[: 2 * 3584] + lie)
    corpus = read_corpus(str(tmp_path))
    assert rows(corpus)["s.tar"] in {"truncated", "unreadable"}
    assert [clip.clip_id for clip in corpus.clips] == ["s.tar/1.wav", "s.tar/2.wav"]


def test_a_tar_without_one_usable_clip_is_not_called_another_file(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(tar(GOOD))
    (tmp_path / "t.tar").write_bytes(tar([("1.wav", SOUND)]))
    corpus = read_corpus(str(tmp_path))
    assert rows(corpus) == {"1.wav": "label"}
    assert corpus.ignored == 0
    with pytest.raises(CorpusError, match=r"0 classes.*there is no \.cls"):
        read_corpus(str(tmp_path / "t.tar"))


RANGES: list[tuple[int, int]] = []


class Store(MemoryFileSystem):
    """The files of memory:// as an object store that counts ranges, and may refuse or fail."""

    protocol = "counted"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("counted:/"))

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        RANGES.append((start, end))
        if "secret" in path:
            raise PermissionError(path)
        if "gone" in path:
            raise ConnectionError(104, "the store went away")
        data: bytes = super().cat_file(path, start=start, end=end)
        return data


fsspec.register_implementation("counted", Store, clobber=True)


def test_of_long_sounds_only_headers_and_labels_are_fetched() -> None:
    members = [
        member
        for i in range(20)
        for member in [(f"{i}.wav", bytes(1 << 20)), (f"{i}.cls", b"dog" if i % 2 else b"cat")]
    ]
    data = tar(members, tarfile.GNU_FORMAT)
    storage.write_bytes("memory://long/s.tar", data)
    assert len(read_corpus("counted://long").clips) == 20
    assert 20 <= len(RANGES) < 2 * len(members)
    assert sum(end - start for start, end in RANGES) < 0.1 * len(data)


def test_a_tar_that_is_refused_costs_a_row_and_a_broken_store_the_job() -> None:
    storage.write_bytes("memory://refused/a.tar", tar(GOOD))
    storage.write_bytes("memory://refused/secret.tar", tar(GOOD))
    corpus = read_corpus("counted://refused")
    assert rows(corpus) == {"secret.tar": "unreadable"}
    assert len(corpus.clips) == 2
    storage.write_bytes("memory://refused/gone.tar", tar(GOOD))
    with pytest.raises(StorageError, match=r"gone\.tar: the store went away"):
        read_corpus("counted://refused")
