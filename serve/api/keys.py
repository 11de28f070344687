"""API keys. They are read once, kept as digests, compared in constant time and never logged."""

import hashlib
import hmac
import re
from pathlib import Path

from audiocnn.config import Variable
from audiocnn.errors import ConfigError

_SHORTEST = 16
_KEY = re.compile(r"[\x21-\x7e]+")


def read_keys(path: str | None) -> tuple[str, ...]:
    """Return the digests of the keys in a file, or of those in AUDIOCNN_API_KEYS if `path` is None.

    The file has one key per line; lines that start with # are comments. The variable separates keys
    by commas. Raises ConfigError for a file that cannot be read or has no key, and for a key that
    is too short or cannot stand in an HTTP header.
    """
    if path is None:
        found = [key.strip() for key in Variable.API_KEYS.get().split(",")]
        where = str(Variable.API_KEYS)
    else:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise ConfigError(f"--keys {path}: {reason}") from error
        found = [line.strip() for line in lines if not line.startswith("#")]
        where = f"--keys {path}"
    keys = [key for key in found if key]
    if path is not None and not keys:
        raise ConfigError(f"{where}: no key in it")
    for number, key in enumerate(keys, 1):
        if len(key) < _SHORTEST or not _KEY.fullmatch(key):
            raise ConfigError(
                f"{where}: key {number} needs at least {_SHORTEST} printable characters without "
                "spaces; `openssl rand -hex 32` makes a good one"
            )
    return tuple(dict.fromkeys(map(digest, keys)))


def digest(key: str) -> str:
    """Return the SHA-256 of a key, in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def known(key: str, digests: tuple[str, ...]) -> str | None:
    """Return the digest of a key if it is one of `digests`, else None.

    A wrong key takes as long as a right one.
    """
    mine, found = digest(key), None
    for one in digests:
        if hmac.compare_digest(one, mine):
            found = one
    return found
