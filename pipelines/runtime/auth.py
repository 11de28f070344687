"""Ray's token. Anybody who has it can run code on the clusters that were started with it.

Ray looks for the token in RAY_AUTH_TOKEN, in the file that RAY_AUTH_TOKEN_PATH names, and in
~/.ray/auth_token. Ray writes the last file for the first cluster of a machine; up to Ray 2.60.0
every user of the machine could read it.
"""

import os
import secrets
import stat
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path

from audiocnn.errors import ConfigError

VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def write_token() -> None:
    """Write a token, readable only by its owner, where Ray would write one for a local cluster.

    Does nothing if a token exists already or RAY_AUTH_MODE asks for none. Raises ConfigError if the
    file cannot be written.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "token").lower()
    if mode != "token" or any(map(os.environ.get, VARIABLES)):
        return
    path = token_path()
    try:
        if path.exists():
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The temporary file is readable only by its owner. It gets its name once it is complete,
        # and never replaces the token of another process.
        with tempfile.NamedTemporaryFile(dir=path.parent) as file:
            file.write(secrets.token_hex(32).encode())
            file.flush()
            with suppress(FileExistsError):
                _put(Path(file.name), path)
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; Ray keeps its token there: set RAY_AUTH_TOKEN "
            "(`openssl rand -hex 32`), or HOME to a folder that can be written"
        ) from error


def _put(file: Path, path: Path) -> None:
    """Give a file a second name. Raises FileExistsError if a file of that name exists.

    On file systems without hard links (FAT, SMB, some of FUSE), copy it, readable only by its
    owner.
    """
    try:
        os.link(file, path)
    except FileExistsError:
        raise
    except OSError:
        with open(path, "xb", opener=partial(os.open, mode=0o600)) as copy:
            copy.write(file.read_bytes())


def token_path() -> Path:
    """Return the path of the file from which Ray reads its token."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def readable_by(path: Path) -> str:
    """Say in words who besides its owner may read a file; "" means nobody."""
    mode = stat.S_IMODE(path.stat().st_mode)
    who = {0o004: "everybody", 0o040: "its group"}
    return next((name for bit, name in who.items() if mode & bit), "")
