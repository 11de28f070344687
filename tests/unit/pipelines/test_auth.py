"""Only its owner can read Ray's token, and the doctor reports a token that others can read."""

import errno
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from audiocnn.errors import ConfigError
from pipelines.runtime import auth
from pipelines.tools import doctor


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RAY_AUTH_MODE", *auth.VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("setting", [None, "token"])
def test_a_token_is_written_for_its_owner_alone(
    home: Path, setting: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if setting is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", setting)
    before = os.umask(0)
    try:
        auth.write_token()
    finally:
        os.umask(before)
    token = home / ".ray" / "auth_token"
    assert (mode(token), mode(token.parent)) == (0o600, 0o700)
    assert re.fullmatch("[0-9a-f]{64}", token.read_text())
    assert list(token.parent.iterdir()) == [token]
    text = token.read_text()
    auth.write_token()
    assert token.read_text() == text


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_token_is_written_where_there_are_no_hard_links(
    home: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAT, SMB and some FUSE file systems raise these errors."""

    def link(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    before = os.umask(0)
    try:
        auth.write_token()
    finally:
        os.umask(before)
    token = home / ".ray" / "auth_token"
    assert mode(token) == 0o600
    assert re.fullmatch("[0-9a-f]{64}", token.read_text())
    assert list(token.parent.iterdir()) == [token]


@pytest.mark.parametrize("links", [True, False])
def test_a_token_that_another_process_wrote_meanwhile_stays(
    home: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, real = home / ".ray" / "auth_token", os.link

    def link(*names: Any) -> None:
        token.write_text("of another")
        if not links:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        real(*names)

    monkeypatch.setattr(os, "link", link)
    auth.write_token()
    assert token.read_text() == "of another"
    assert list(token.parent.iterdir()) == [token]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RAY_AUTH_MODE", "disabled"),
        ("RAY_AUTH_TOKEN", "f" * 64),
        ("RAY_AUTH_TOKEN_PATH", "/run/secrets/token"),
    ],
)
def test_none_is_written_where_ray_would_write_none(
    home: Path, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    auth.write_token()
    assert not home.exists()


def test_one_that_cannot_be_written_is_one_line(home: Path) -> None:
    home.write_text("no folder")
    with pytest.raises(ConfigError, match=r"auth_token: Not a directory; .* set RAY_AUTH_TOKEN"):
        auth.write_token()


def test_the_doctor_sees_a_token_that_others_can_read(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not doctor._token().mend
    auth.write_token()
    token = home / ".ray" / "auth_token"
    assert not doctor._token().mend
    for bits, who in ((0o644, "everybody"), (0o640, "its group")):
        token.chmod(bits)
        finding = doctor._token()
        assert f"{token} can be read by {who}" in finding.found
        assert finding.mend.startswith(f"chmod 600 {token}")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 64)
    assert not doctor._token().mend  # Ray does not read that file then
