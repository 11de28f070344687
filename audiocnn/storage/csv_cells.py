"""Cells of CSV files that people open in spreadsheets: none runs as a formula."""

import csv
import io
import re
from collections.abc import Iterable, Sequence

_INVISIBLE = r"\s\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff"
FORMULA = (
    # Spreadsheets take the full-width and the small forms for the ASCII ones.
    rf"[\t\r\n]|[{_INVISIBLE}]*[=+\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b]"
)
"""How a formula, or what hides one, begins: a pattern for Python and JavaScript alike."""

_BEGINS = re.compile(FORMULA)


def escape_formula(text: str) -> str:
    """A cell that no spreadsheet takes for a formula (OWASP, "CSV Injection"), without NUL."""
    guarded = "'" + text if _BEGINS.match(text) else text
    return guarded.replace("\0", "\\x00")


def unescape_formula(cell: str) -> str:
    """The text that `escape_formula` was given."""
    return cell[1:] if cell.startswith("'") and _BEGINS.match(cell, 1) else cell


def csv_file(rows: Iterable[Sequence[str | float]]) -> bytes:
    """A CSV file after RFC 4180, in UTF-8; its texts are those of `escape_formula`."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerows([escape_formula(v) if isinstance(v, str) else v for v in row] for row in rows)
    return text.getvalue().encode("utf-8", "backslashreplace")
