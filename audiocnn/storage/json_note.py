"""The JSON files that jobs leave, as dictionaries that say what is missing in which file."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from audiocnn.errors import FormatError


@dataclass
class Origin:
    """The file that notes were read from."""

    uri: str = ""
    written_by: str | None = None
    """The version of audiocnn that wrote it, where the file says so."""


class Note(dict[str, Any]):
    """A JSON object of a file. Asked for a member that it lacks, it raises FormatError."""

    def __init__(self, members: Iterable[tuple[str, Any]], origin: Origin) -> None:
        super().__init__(members)
        self.origin = origin

    def __missing__(self, name: str) -> Any:
        raise FormatError(f"{self.origin.uri} is damaged (no {name!r})")

    def without(self, names: Iterable[str]) -> "Note":
        """The same without some members."""
        left_out = set(names)
        return Note(((k, v) for k, v in self.items() if k not in left_out), self.origin)


def parse(uri: str, data: bytes) -> Note:
    """The JSON object in a file. Raises FormatError where there is none."""
    origin = Origin(uri)
    try:
        value = json.loads(data, object_pairs_hook=lambda members: Note(members, origin))
    except ValueError as error:
        raise FormatError(f"{uri}: not JSON ({error})") from error
    if not isinstance(value, Note):
        raise FormatError(f"{uri}: not a JSON object")
    origin.written_by = value.get("written_by")
    return value
