"""Tables of tab-separated text, read row by row."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lastax.data._errors import DataError
from lastax.data._folders import unreadable
from lastax.data._skipping import Skipping

LONGEST = 2**26  # bytes per row; another file may have no line ends at all
HINT = "restore the file, or skip bad rows with --skip-bad"

Item = TypeVar("Item")


@dataclass(frozen=True)
class Row:
    """A row of a table. `number` is the line number, counted from 1."""

    path: Path
    number: int
    columns: list[bytes]

    def error(self, what: str) -> DataError:
        """The error to raise about this row."""
        return DataError(f"{self.path}, row {self.number}: {what}; {HINT}")

    def label(self, column: int, *, classes: int) -> int:
        """The label in a column, written like 1 or 1.0.

        Raises:
            DataError: if it is not in 0..classes-1.
        """
        try:
            value = float(self.columns[column])
        except ValueError:
            value = -1.0
        if value not in range(classes):
            written = _shown(self.columns[column])
            raise self.error(f"label {written} is not in 0..{classes - 1}")
        return int(value)


def read_rows(
    path: Path,
    parse: Callable[[Row], Item],
    *,
    columns: int,
    skipping: Skipping,
    header: bytes | None = None,
) -> Iterator[Item]:
    """Yield `parse(row)` for each row of `path`.

    Quotation marks have no meaning. Empty lines are ignored.

    Args:
        path: the file.
        parse: function of a row. It raises DataError for a bad row.
        columns: number of columns. Rows with another number are bad.
        skipping: whether bad rows are skipped.
        header: required first line, which is not a row.

    Raises:
        DataError: if the file cannot be read, has no rows, or has another header.
    """
    rows = 0
    for number, line in _lines(path):
        if number == 1 and header is not None:
            if line != header:
                raise DataError(
                    f"{path} begins with {_shown(line)} instead of {_shown(header)}; restore it"
                )
            continue
        if not line:
            continue
        rows += 1
        parsed = []
        with skipping.item():
            row = Row(path, number, line.split(b"\t"))
            if len(row.columns) != columns:
                raise row.error(f"{len(row.columns)} columns instead of {columns}")
            parsed.append(parse(row))
        yield from parsed
    if not rows:
        raise DataError(f"{path} has no rows; restore it")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        with path.open("rb") as file:
            while line := file.readline(LONGEST):
                number += 1
                if len(line) == LONGEST:
                    raise DataError(f"{path}, row {number} has no end; restore the file")
                yield number, line.rstrip(b"\r\n")
    except OSError as error:
        raise unreadable(path, error) from None


def _shown(text: bytes) -> str:
    """`text`, quoted and shortened for a message."""
    return repr(text[:40].decode("utf-8", "backslashreplace")) + ("..." if len(text) > 40 else "")
