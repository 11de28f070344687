"""The JSON files that jobs leave, as dictionaries that say what is missing in which file."""

import json
from collections.abc import Iterable
from typing import Any

from audiocnn.errors import FormatError


class Note(dict[str, Any]):
    """A JSON object of a file. Asked for a member that it lacks, it raises FormatError."""

    def __init__(self, members: Iterable[tuple[str, Any]] = (), uri: str = "") -> None:
        super().__init__(members)
        self.uri = uri

    def __missing__(self, name: str) -> Any:
        raise FormatError(f"{self.uri} is damaged (no {name!r})")


def parse(uri: str, data: bytes) -> Note:
    """The JSON object in a file. Raises FormatError where there is none."""
    try:
        value = json.loads(data, object_pairs_hook=lambda members: Note(members, uri))
    except ValueError as error:
        raise FormatError(f"{uri}: not JSON ({error})") from error
    if not isinstance(value, Note):
        raise FormatError(f"{uri}: not a JSON object")
    return value
