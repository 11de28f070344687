"""The download from a real HTTP server on loopback, which can break off an answer."""

import io
import random
import resource
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from audiocnn.corpus import download
from audiocnn.errors import CorpusError, StorageError
from helpers import strangers

TOP = "ESC-50-33c8ce9"


def archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def esc50(clips: int = 4) -> dict[str, bytes]:
    names = [f"1-{i}-A-0.wav" for i in range(clips)]
    rows = "".join(f"{name},1,0,dog,False,{i},A\n" for i, name in enumerate(names))
    meta = "filename,fold,target,category,esc10,src_file,take\n" + rows
    members = {f"{TOP}/audio/{name}": bytes(range(100)) * 3 for name in names}
    return {f"{TOP}/meta/esc50.csv": meta.encode(), **members}


class Server(ThreadingHTTPServer):
    body = b""
    breaks_after: int | None = None
    ranges: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        body = self.server.body[start:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = self.server.breaks_after
        self.wfile.write(body if cut is None else body[:cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "_CLIPS", 4)
    monkeypatch.setattr(download, "_CLIP_BYTES", 300)
    made = Server(("127.0.0.1", 0), Handler)
    made.ranges = []
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/esc50.zip"


def test_it_comes_whole_and_only_once(server: Server, tmp_path: Path) -> None:
    server.body = archive(esc50())
    told: list[tuple[int, int]] = []
    corpus = download.fetch_esc50(
        tmp_path, url(server), lambda done, total: told.append((done, total))
    )
    assert (corpus / "meta" / "esc50.csv").exists()
    assert len(list((corpus / "audio").iterdir())) == 4
    assert told[-1] == (len(server.body), len(server.body))
    assert [p.name for p in tmp_path.iterdir()] == ["ESC-50"]
    download.fetch_esc50(tmp_path, url(server))
    assert len(server.ranges) == 1


def test_a_broken_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.body, server.breaks_after = archive(esc50()), 200
    with pytest.raises(StorageError, match="run the same command again to continue"):
        download.fetch_esc50(tmp_path, url(server))
    assert not (tmp_path / "ESC-50").exists()
    server.breaks_after = None
    download.fetch_esc50(tmp_path, url(server))
    assert server.ranges == [None, "bytes=200-"]


@pytest.mark.parametrize(
    "name", ["../evil", f"{TOP}/../../evil", "/etc/evil", f"{TOP}\\..\\..\\evil", "loose"]
)
def test_names_that_lead_out_are_refused(server: Server, tmp_path: Path, name: str) -> None:
    server.body = archive({**esc50(), name: b"x"})
    inside = tmp_path / "deep" / "inside"
    with pytest.raises(CorpusError, match="refused, because it contains"):
        download.fetch_esc50(inside, url(server))
    assert not [p for p in tmp_path.rglob("*") if "evil" in p.name]
    assert not (inside / "ESC-50").exists()


def test_links_are_refused(server: Server, tmp_path: Path) -> None:
    link = zipfile.ZipInfo(f"{TOP}/audio/link.wav")
    link.external_attr = 0o120777 << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(link, "/etc/passwd")
    server.body = buffer.getvalue()
    with pytest.raises(CorpusError, match=r"link\.wav"):
        download.fetch_esc50(tmp_path, url(server))


def test_what_is_not_esc50_is_refused_and_asked_for_again(server: Server, tmp_path: Path) -> None:
    short = dict(list(esc50().items())[:-1])
    wrong_size = {**esc50(), f"{TOP}/audio/1-0-A-0.wav": b"short"}
    damaged = bytearray(archive(esc50()))
    damaged[60] ^= 0xFF
    for body in (archive(short), archive(wrong_size), b"no zip at all", bytes(damaged)):
        server.body = body
        with pytest.raises(CorpusError):
            download.fetch_esc50(tmp_path, url(server))
        assert not (tmp_path / "ESC-50").exists()
    server.body = archive(esc50())
    assert download.fetch_esc50(tmp_path, url(server)).is_dir()


def test_a_bomb_is_refused_unopened(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_MOST_BYTES", 100_000)
    server.body = archive({f"{TOP}/zeros": bytes(1_000_000)})
    with pytest.raises(CorpusError, match="unpacks to more"):
        download.fetch_esc50(tmp_path, url(server))


@pytest.fixture
def small_files() -> Iterator[None]:
    """Limit the files of this process to 100 kB each; writing more fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("full", ["the archive", "what is in it"])
@pytest.mark.usefixtures("small_files")
def test_a_full_disk_is_one_line(server: Server, tmp_path: Path, full: str) -> None:
    noise = random.Random(0).randbytes(200_000)
    content = noise if full == "the archive" else bytes(200_000)
    server.body = archive({**esc50(), f"{TOP}/README.md": content})
    name = r"-esc50\.zip\.part" if full == "the archive" else r"-ESC-50\.part"
    with pytest.raises(StorageError, match=rf"{name}: File too large; free some space and run"):
        download.fetch_esc50(tmp_path, url(server))
    assert not (tmp_path / "ESC-50").exists()
    assert not (tmp_path / ".audiocnn-ESC-50.part").exists()
    resource.setrlimit(resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE)[1:] * 2)
    assert download.fetch_esc50(tmp_path, url(server)).is_dir()


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"esc50\.zip: .*run the same command again to continue"):
        download.fetch_esc50(tmp_path, "http://127.0.0.1:9/esc50.zip")


def test_a_disk_that_cannot_be_written_is_not_taken_for_the_server(
    server: Server, tmp_path: Path
) -> None:
    server.body = archive(esc50())
    partial = tmp_path / ".audiocnn-esc50.zip.part"
    partial.mkdir()
    with pytest.raises(StorageError, match=rf"^{partial}: Is a directory; run the same command"):
        download.fetch_esc50(tmp_path, url(server))


def test_it_costs_nobody_a_file(server: Server, tmp_path: Path) -> None:
    """Neither a complete download nor a refused one changes files of others."""
    mine = ("esc50.zip", "esc50.zip.part", "ESC-50.part/audio/mine.wav")
    planted = strangers.plant(tmp_path, mine)
    server.body = b"no zip at all"
    with pytest.raises(CorpusError):
        download.fetch_esc50(tmp_path, url(server))
    assert strangers.found(tmp_path, mine) == planted
    server.body = archive(esc50())
    assert len(list((download.fetch_esc50(tmp_path, url(server)) / "audio").iterdir())) == 4
    assert strangers.found(tmp_path, mine) == planted
