"""ESC-50 from its own repository: resumable, checked, and unpacked nowhere but where it should."""

import csv
import errno
import io
import os
import shutil
import stat
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path, PurePosixPath

from audiocnn.errors import CorpusError, StorageError

ESC50_URL = (
    "https://codeload.github.com/karolpiczak/ESC-50/zip/33c8ce9eb2cf0b1c2f8bcf322eb349b6be34dbb6"
)
_CLIPS, _CLIP_BYTES = 2_000, 441_044
_MOST_BYTES = 2 * 2**30
_BLOCK = 1 << 20
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What a disk says that has no room."""


def fetch_esc50(
    folder: Path, url: str = ESC50_URL, told: Callable[[int, int], None] = lambda done, total: None
) -> Path:
    """ESC-50 below a folder, downloaded where it is not there yet; returns the corpus's folder.

    `told` is called with bytes done and in all (0 where the server does not say). An interrupted
    download goes on where it stopped. Raises StorageError, and CorpusError where what came is
    not the 2,000 clips of ESC-50.
    """
    corpus = folder / "ESC-50"
    if not corpus.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        archive = folder / ".audiocnn-esc50.zip"  # by these names they are ours, to be removed
        download(url, archive, told)
        partial = folder / ".audiocnn-ESC-50.part"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            unzip(archive, partial)
            check_esc50(partial)
            partial.rename(corpus)
        except CorpusError:
            archive.unlink()
            raise
        except OSError as error:  # a full disk: what is half there would only fill it
            shutil.rmtree(partial, ignore_errors=True)
            raise _of_disk(partial, error) from error
        archive.unlink()
    return corpus


def _of_disk(path: Path, error: OSError) -> StorageError:
    what = "make room, and " if error.errno in _FULL else ""
    return StorageError(
        f"{path}: {error.strerror or error}; {what}the same command goes on from here"
    )


def download(url: str, to: Path, told: Callable[[int, int], None]) -> None:
    """A file by HTTP, through `NAME.part`, from where an earlier attempt stopped.

    Raises StorageError where the server fails or sends fewer bytes than it announced.
    """
    if to.exists():
        return
    partial = to.with_name(to.name + ".part")
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            if answer.status != 206:
                have = 0
            length = int(answer.headers.get("Content-Length") or 0)
            total = have + length if length else 0
            with partial.open("ab" if have else "wb") as file:
                while block := answer.read(_BLOCK):
                    file.write(block)
                    told(file.tell(), total)
                    if file.tell() > _MOST_BYTES:
                        raise StorageError(f"{url}: more than {_MOST_BYTES} bytes")
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the earlier attempt had all of another, shorter file
            partial.unlink()
        raise StorageError(f"{url}: the server answered {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        # A file that cannot be opened has a name, a request that failed has none.
        if isinstance(error, OSError) and (error.filename or error.errno in _FULL):
            raise _of_disk(partial, error) from error
        raise StorageError(f"{url}: {error}; the same command goes on from here") from error
    size = partial.stat().st_size
    if total and size != total:
        raise StorageError(f"{url}: {size} of {total} bytes came; the same command goes on")
    partial.rename(to)


def unzip(archive: Path, to: Path) -> None:
    """Unpack an archive without its one top folder.

    Raises CorpusError, with nothing written outside `to`, for names that lead out of it, links,
    contents that do not fit their checksums, and archives that unpack to more than 2 GiB.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = [info for info in file.infolist() if not info.is_dir()]
            if sum(info.file_size for info in members) > _MOST_BYTES:
                raise CorpusError(f"{archive}: unpacks to more than {_MOST_BYTES} bytes")
            for info in members:
                target = to.joinpath(*_inside(archive, info).parts[1:])
                target.parent.mkdir(parents=True, exist_ok=True)
                with file.open(info) as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink, _BLOCK)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise CorpusError(f"{archive}: not a whole zip archive ({error})") from error


def _inside(archive: Path, info: zipfile.ZipInfo) -> PurePosixPath:
    path = PurePosixPath(info.filename.replace("\\", "/"))
    link = stat.S_ISLNK(info.external_attr >> 16)
    if link or path.is_absolute() or ".." in path.parts or len(path.parts) < 2:
        raise CorpusError(f"{archive}: refused, for it holds {info.filename!r}")
    return path


def check_esc50(folder: Path) -> None:
    """Raise CorpusError unless every clip that `meta/esc50.csv` lists is there, at its size."""
    meta = folder / "meta" / "esc50.csv"
    if not meta.exists():
        raise CorpusError(f"{folder}: no meta/esc50.csv: not ESC-50")
    names = [row["filename"] for row in csv.DictReader(io.StringIO(meta.read_text()))]
    if len(names) != _CLIPS:
        raise CorpusError(f"{meta}: {len(names)} clips, ESC-50 has {_CLIPS}")
    for name in names:
        clip = folder / "audio" / os.path.basename(name)
        if not clip.exists() or clip.stat().st_size != _CLIP_BYTES:
            raise CorpusError(f"{clip}: missing, or not {_CLIP_BYTES} bytes")
