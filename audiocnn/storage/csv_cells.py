"""Cells of CSV files for spreadsheets: escaped so that no cell runs as a formula."""

import csv
import io
import re
from collections.abc import Iterable, Sequence

_INVISIBLE = r"\s\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff"
FORMULA = (
    # Spreadsheets treat full-width and small forms like the ASCII characters.
    rf"[\t\r\n]|[{_INVISIBLE}]*[=+\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b]"
)
"""Pattern for the start of a cell that is a formula or may hide one, for Python and JavaScript."""

_BEGINS = re.compile(FORMULA)


def escape_formula(text: str) -> str:
    """Return a cell that no spreadsheet treats as a formula (OWASP, "CSV Injection").

    A possible formula gets an apostrophe before it. A NUL becomes a backslash and `x00`.
    """
    guarded = "'" + text if _BEGINS.match(text) else text
    return guarded.replace("\0", "\\x00")


def unescape_formula(cell: str) -> str:
    """Undo `escape_formula`: remove the apostrophe before a formula. NULs stay replaced."""
    return cell[1:] if cell.startswith("'") and _BEGINS.match(cell, 1) else cell


def csv_file(rows: Iterable[Sequence[str | float]]) -> bytes:
    """Return a CSV file (RFC 4180) in UTF-8; `escape_formula` is applied to all texts."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerows([escape_formula(v) if isinstance(v, str) else v for v in row] for row in rows)
    return text.getvalue().encode("utf-8", "backslashreplace")
