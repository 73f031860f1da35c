"""Tables on narrow terminals: they fit, and no number is cut."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from lastax.cmd._tables import fitting_tables

NAMES = ["S4D, 256 channels, unidirectional", "listops training"]
NUMBERS = [[f"{10**row * (1 + column)},{100 + column} ms" for column in range(9)] for row in (1, 2)]


def wide_table():
    table = Table()
    table.add_column("name of the row")
    for column in range(9):
        table.add_column(f"temporaries in column {column}", justify="right")
    for name, numbers in zip(NAMES, NUMBERS, strict=True):
        table.add_row(name, *numbers)
    return table


def shown(table, width):
    parts = list(fitting_tables(table, width))
    target = io.StringIO()
    for part in parts:
        Console(file=target, width=width).print(part, crop=False)
    return target.getvalue(), len(parts)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140, 200, 400])
def test_tables_fit_and_lose_no_digit(width):
    text, parts = shown(wide_table(), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    words = text.split()
    for number in (number.removesuffix(" ms") for row in NUMBERS for number in row):
        assert words.count(number) == 1
    # Every part has the names of all rows.
    assert words.count("training") == words.count("256") == parts
    assert parts == 1 or width < 200


def test_rows_stay_on_one_line_where_there_is_space():
    for width in (80, 400):
        lines = shown(wide_table(), width)[0].splitlines()
        for name in NAMES[:2]:
            assert any(name in line and "ms" in line for line in lines)


def test_numbers_are_whole_even_if_no_column_fits():
    for number in (number for row in NUMBERS for number in row):
        assert f" {number} " in shown(wide_table(), 5)[0]
