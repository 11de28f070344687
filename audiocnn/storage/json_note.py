"""The JSON files that jobs write, as dictionaries with errors that name the file."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from audiocnn.errors import FormatError


@dataclass
class Origin:
    """The file that a note was read from."""

    uri: str = ""
    written_by: str | None = None
    """Version of audiocnn that wrote the file; None if the file does not say so."""


class Note(dict[str, Any]):
    """A JSON object from a file. `note[name]` raises FormatError if the member is missing."""

    def __init__(self, members: Iterable[tuple[str, Any]], origin: Origin) -> None:
        super().__init__(members)
        self.origin = origin

    def __missing__(self, name: str) -> Any:
        raise FormatError(f"{self.origin.uri} is damaged (no {name!r})")

    def without(self, names: Iterable[str]) -> "Note":
        """Return a note without the members `names`."""
        left_out = set(names)
        return Note(((k, v) for k, v in self.items() if k not in left_out), self.origin)


def parse(uri: str, data: bytes) -> Note:
    """Return the JSON object in a file's content. Raises FormatError if there is none."""
    origin = Origin(uri)
    try:
        value = json.loads(data, object_pairs_hook=lambda members: Note(members, origin))
    except ValueError as error:
        raise FormatError(f"{uri}: not JSON ({error})") from error
    if not isinstance(value, Note):
        raise FormatError(f"{uri}: not a JSON object")
    origin.written_by = value.get("written_by")
    return value
