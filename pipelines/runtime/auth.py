"""Ray's token: whoever has it may run code on the clusters that were started with it.

Ray looks for it in RAY_AUTH_TOKEN, in the file of RAY_AUTH_TOKEN_PATH, and in ~/.ray/auth_token,
which it writes for the first cluster of a machine; up to 2.60.0 everybody could read that.
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
    """Write a token where Ray would write one for a cluster that starts here: for its owner alone.

    Raises ConfigError where it cannot be written.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "token").lower()
    if mode != "token" or any(map(os.environ.get, VARIABLES)):
        return
    path = token_path()
    try:
        if path.exists():
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Made for its owner alone, and put into its place whole where nobody was there before.
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
    """Give a file a second name. Raises FileExistsError where there is a file of that name.

    Where the file system has no hard links (FAT, SMB, some of FUSE), copy it, for its owner alone.
    """
    try:
        os.link(file, path)
    except FileExistsError:
        raise
    except OSError:
        with open(path, "xb", opener=partial(os.open, mode=0o600)) as copy:
            copy.write(file.read_bytes())


def token_path() -> Path:
    """The file that Ray reads its token from."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def readable_by(path: Path) -> str:
    """Who but its owner may read a file, in words: "" for nobody."""
    mode = stat.S_IMODE(path.stat().st_mode)
    who = {0o004: "everybody", 0o040: "its group"}
    return next((name for bit, name in who.items() if mode & bit), "")
