"""Tables that fit the terminal and lose no digit."""

import dataclasses
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.table import Column, Table

from lastax.cmd._console import out


def print_table(table: Table) -> None:
    """Print a table whose cells are text; no number is cut.

    Where the table is wider than the terminal, its header and the names of its rows wrap between
    words. Where it is still wider, the columns that do not fit follow below, beside the names.

    Args:
        table: a table whose first column names the rows.
    """
    if table.title is not None:
        out.print(table.title, style="italic", soft_wrap=False)
    for part in fitting_tables(table, out.width):
        out.print(part, soft_wrap=False, crop=False)


def fitting_tables(table: Table, width: int) -> Iterator[Table]:
    """Parts of a table, each with its first column, that are at most `width` characters wide.

    They have no title. A part with two columns is wider if their words are.
    """
    columns = [_Sizes.of(column) for column in table.columns]
    groups = [columns]
    if sum(sizes.least for sizes in columns) > width - _frame(table, len(columns)):
        first, *others = columns
        if first.whole <= width // 2:
            # In a part there is space for names on one line.
            first = dataclasses.replace(first, least=first.whole)
        groups = [[first]]
        for sizes in others:
            group = [*groups[-1], sizes]
            if len(group) == 2 or sum(s.least for s in group) <= width - _frame(table, len(group)):
                groups[-1] = group
            else:
                groups.append([first, sizes])
    for group in groups:
        yield _part(table, group, _widths(group, width - _frame(table, len(group))))


@dataclasses.dataclass(frozen=True)
class _Sizes:
    """A column, its width, and its least width if it wraps between words."""

    column: Column
    whole: int
    least: int

    @classmethod
    def of(cls, column: Column) -> "_Sizes":
        header, cells = str(column.header), [str(cell) for cell in column.cells]
        # Numbers have units and signs, which stay on one line; only the names of rows wrap.
        words = cells if column.justify == "right" else [w for cell in cells for w in cell.split()]
        return cls(column, _longest([header, *cells]), _longest([*header.split(), *words]))


def _longest(texts: Sequence[str]) -> int:
    return max(map(cell_len, texts), default=0)


def _frame(table: Table, columns: int) -> int:
    """Width of borders and padding."""
    _, right, _, left = table.padding
    return columns * (left + right) + (columns + 1 if table.box else 0)


def _widths(columns: Sequence[_Sizes], space: int) -> list[int]:
    """Width of each column. Columns on the left get spare space first."""
    widths = [sizes.least for sizes in columns]
    for index, sizes in enumerate(columns):
        widths[index] += max(0, min(sizes.whole - sizes.least, space - sum(widths)))
    return widths


def _part(table: Table, columns: Sequence[_Sizes], widths: Sequence[int]) -> Table:
    # With a width of its own, a table ignores that of the terminal, to which rich would cut it.
    part = Table(box=table.box, width=sum(widths) + _frame(table, len(columns)))
    for sizes, width in zip(columns, widths, strict=True):
        column = sizes.column
        part.add_column(column.header, justify=column.justify, width=width)
    rows = zip(*(sizes.column.cells for sizes in columns), strict=True)
    for row, cells in zip(table.rows, rows, strict=True):
        part.add_row(*cells, end_section=row.end_section)
    return part
