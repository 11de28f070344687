"""Run `audiocnn` commands in forks of a process that has imported the modules: they start fast.

Run as a script, this file is that process. It imports the modules that its command line names. Then
it answers each line of JSON on its standard input with a line on its standard output.
"""

import json
import os
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Done:
    """Result of a command: subprocess.CompletedProcess and the names of the imported modules."""

    returncode: int
    stdout: str
    stderr: str
    loaded: set[str]


class Forked:
    """A process that has imported the command line and more modules."""

    def __init__(self, *modules: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "pipelines.cli", *modules],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def run(self, *arguments: str, cwd: Path) -> Done:
        """Run `audiocnn` with these arguments in a folder."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([arguments, str(cwd)]), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        return Done(**answer | {"loaded": set(answer["loaded"])})


def _command(arguments: list[str]) -> int:
    from pipelines.cli import main

    sys.argv = ["audiocnn", *arguments]
    try:
        main()
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _answer(arguments: list[str], cwd: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        said = {name: Path(folder, name) for name in ("stdout", "stderr", "loaded")}
        pid = os.fork()
        if pid == 0:
            for number, name in ((1, "stdout"), (2, "stderr")):
                os.dup2(os.open(said[name], os.O_WRONLY | os.O_CREAT), number)
            os.chdir(cwd)
            code = _command(arguments)
            sys.stdout.flush()
            sys.stderr.flush()
            said["loaded"].write_text("\n".join(sys.modules))
            os._exit(code)
        _, status = os.waitpid(pid, 0)
        texts = {name: path.read_text() for name, path in said.items()}
    loaded = texts.pop("loaded").split()
    return {"returncode": os.waitstatus_to_exitcode(status), "loaded": loaded, **texts}


if __name__ == "__main__":
    sys.path.pop(0)  # this folder: its modules would hide others of the same names
    for module in sys.argv[1:]:
        __import__(module)
    for line in sys.stdin:
        print(json.dumps(_answer(*json.loads(line))), flush=True)
