"""Temporary files of a process that ended are removed; those of a running process stay."""

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

from audiocnn import storage
from audiocnn.corpus.file_list import FileList
from audiocnn.storage import output_folder
from helpers.small_parts import left_behind

WRITING = """
import sys
from pathlib import Path
from audiocnn import storage
with storage.atomic_path(sys.argv[1]) as path:
    Path(path).write_bytes(b"a part")
    print(path, flush=True)
    sys.stdin.read()
"""


def sweep(folder: Path) -> None:
    """Call every function that removes temporary files, on `parts` below a folder."""
    output_folder.sweep(str(folder), "parts/part-*.parquet", lambda _: False)
    output_folder.remove_temporary(str(folder / "parts"))
    FileList(str(folder), "list.json").write_bytes("parts/notes.txt", b"x")


def start(part: Path) -> tuple[subprocess.Popen[str], Path]:
    """Start a process that writes a part until its input ends; return it and its temporary path."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITING, str(part)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_what_is_being_written_is_left_to_its_process(tmp_path: Path) -> None:
    """This holds for this process and another one, if the file changed within a day."""
    mine, theirs = tmp_path / "parts" / "part-1.parquet", tmp_path / "parts" / "part-2.parquet"
    process, path = start(theirs)
    with storage.atomic_path(str(mine)) as temporary:
        Path(temporary).write_bytes(b"a part")
        for written in (path, Path(temporary)):
            os.utime(written, (time.time() - 80_000,) * 2)
        sweep(tmp_path)
        assert path.exists()
    process.communicate("")
    assert process.returncode == 0
    assert mine.read_bytes() == theirs.read_bytes() == b"a part"
    assert {file.name for file in (tmp_path / "parts").iterdir()} == {
        mine.name, theirs.name, "notes.txt"
    }  # fmt: skip


def test_what_nobody_wrote_to_for_a_day_is_left_whoever_has_its_process_number_now(
    tmp_path: Path,
) -> None:
    with storage.atomic_path(str(tmp_path / "parts" / "part-1.parquet")) as temporary:
        Path(temporary).write_bytes(b"a part")
        copy = Path(temporary).with_suffix(".kept")
        os.link(temporary, copy)
        os.utime(temporary, (0, 0))
        sweep(tmp_path)
        assert not Path(temporary).exists()
        os.link(copy, temporary)


def test_what_a_killed_process_left_is_removed_at_once(tmp_path: Path) -> None:
    process, path = start(tmp_path / "parts" / "part-1.parquet")
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    assert path.exists()
    sweep(tmp_path)
    assert [file.name for file in (tmp_path / "parts").iterdir()] == ["notes.txt"]
    process.communicate()


def test_what_was_left_by_another_machine_is_removed_when_it_is_old(tmp_path: Path) -> None:
    names = [f".audiocnn-{uuid.uuid4().hex}.tmp", f".{uuid.uuid4().hex}.tmp"]
    (tmp_path / "parts").mkdir()
    for name in names:
        (tmp_path / "parts" / name).write_bytes(b"half of a part")
    sweep(tmp_path)
    assert {file.name for file in (tmp_path / "parts").iterdir()} == {*names, "notes.txt"}
    for name in names:
        left_behind(tmp_path / "parts" / name)
    sweep(tmp_path)
    assert {file.name for file in (tmp_path / "parts").iterdir()} == {"notes.txt"}
