"""Download ESC-50 from its own repository: resumable, checked, unpacked only below its folder."""

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
"""Error numbers that mean there is no room on the disk."""


def fetch_esc50(
    folder: Path,
    url: str = ESC50_URL,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Download ESC-50 below a folder unless it is there already; return the corpus's folder.

    `progress` is called with the bytes done and the total (0 if the server does not state it). An
    interrupted download continues where it stopped. Raises StorageError, and CorpusError if the
    archive does not hold the 2,000 clips of ESC-50.
    """
    corpus = folder / "ESC-50"
    if not corpus.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        archive = folder / ".audiocnn-esc50.zip"  # The two names mark removable files.
        download(url, archive, progress)
        partial = folder / ".audiocnn-ESC-50.part"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            unzip(archive, partial)
            check_esc50(partial)
            partial.rename(corpus)
        except CorpusError:
            archive.unlink()
            raise
        except OSError as error:  # On a full disk, a partial corpus would only take up space.
            shutil.rmtree(partial, ignore_errors=True)
            raise _of_disk(partial, error) from error
        archive.unlink()
    return corpus


def _of_disk(path: Path, error: OSError) -> StorageError:
    what = "free some space and " if error.errno in _FULL else ""
    return StorageError(
        f"{path}: {error.strerror or error}; {what}run the same command again to continue"
    )


def download(url: str, to: Path, progress: Callable[[int, int], None]) -> None:
    """Download a file by HTTP as `NAME.part`, from where an earlier attempt stopped, and rename it.

    Raises StorageError if the server fails or sends fewer bytes than it announced.
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
                    progress(file.tell(), total)
                    if file.tell() > _MOST_BYTES:
                        raise StorageError(f"{url}: more than {_MOST_BYTES} bytes")
    except urllib.error.HTTPError as error:
        if error.code == 416:  # The partial file is not shorter than the server's: start anew.
            partial.unlink()
        raise StorageError(f"{url}: the server answered {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        # An OSError has a file name if a file could not be opened, but not if a request failed.
        if isinstance(error, OSError) and (error.filename or error.errno in _FULL):
            raise _of_disk(partial, error) from error
        raise StorageError(f"{url}: {error}; run the same command again to continue") from error
    size = partial.stat().st_size
    if total and size != total:
        raise StorageError(
            f"{url}: received {size} of {total} bytes; run the same command again to continue"
        )
    partial.rename(to)


def unzip(archive: Path, to: Path) -> None:
    """Unpack an archive without its single top folder.

    Raises CorpusError for names that lead out of `to`, links, contents that do not match their
    checksums, and archives that unpack to more than 2 GiB. Nothing is written outside `to`.
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
        raise CorpusError(f"{archive}: not a complete zip archive ({error})") from error


def _inside(archive: Path, info: zipfile.ZipInfo) -> PurePosixPath:
    path = PurePosixPath(info.filename.replace("\\", "/"))
    link = stat.S_ISLNK(info.external_attr >> 16)
    if link or path.is_absolute() or ".." in path.parts or len(path.parts) < 2:
        raise CorpusError(
            f"{archive}: refused, because it contains {info.filename!r}: a link, or a file outside "
            "its top folder"
        )
    return path


def check_esc50(folder: Path) -> None:
    """Raise CorpusError unless every clip in `meta/esc50.csv` exists and has the right size."""
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
