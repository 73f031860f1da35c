"""A generator for ListOps: nested lists of digits and their values.

The distribution is that of the data set of the Long Range Arena. Nangia and Bowman, ListOps,
NAACL-HLT student workshop 2018; Tay et al., Long Range Arena, ICLR 2021.

An expression is a tree. A leaf is a digit; any other node is an operator with arguments. The code
is vectorized over many trees. A level holds the nodes of one depth, tree by tree, with the
arguments of a node next to each other.
"""

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt64

from lastax.data._atomic import exists, publish, staging_folder
from lastax.data._errors import DataError
from lastax.data._processes import ordered_map

FOLDER = "listops-1000"
FILES = MappingProxyType(
    {"train": "basic_train.tsv", "validation": "basic_val.tsv", "test": "basic_test.tsv"}
)
ABOUT = "made.json"
HEADER = b"Source\tTarget\r\n"
OPERATORS = ("MIN", "MAX", "MED", "SM")  # SM: sum modulo 10
VERSION = 1  # increment it when the rows of a seed change

_TREES = 4096  # trees per draw
_FRUITLESS = 2**20  # trees without a new row after which the search stops
_NAMES = np.array([list(name.ljust(3).encode()) for name in OPERATORS], np.uint8)
_NAME_LENGTHS = np.array([len(name) for name in OPERATORS])
_MOST_ARGS = 2**31  # `_below` draws from 32 bits


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Limits of the expressions. The defaults are those of the published data set.

    Attributes:
        max_depth: maximal number of levels, including the outermost operator.
        max_args: maximal number of arguments of an operator; the minimum is 2.
        min_length: minimal number of tokens: digits, operators and closing brackets.
        max_length: maximal number of tokens.
    """

    max_depth: int = 10
    max_args: int = 10
    min_length: int = 501
    max_length: int = 1999

    def __post_init__(self) -> None:
        for name, value, least in (
            ("max_depth", self.max_depth, 1),
            ("max_args", self.max_args, 2),
            ("min_length", self.min_length, 1),
            ("max_length", self.max_length, self.min_length),
        ):
            if value < least:
                raise DataError(f"ListOps: {name} must be at least {least}; got {value}")
        if self.max_args > _MOST_ARGS:
            raise DataError(
                f"ListOps: max_args must be at most {_MOST_ARGS:,}; got {self.max_args}"
            )
        longest = depth = 1
        while depth < self.max_depth and longest < self.min_length:
            longest, depth = 2 + self.max_args * longest, depth + 1
        if longest < self.min_length:
            raise DataError(
                f"ListOps: no expression with max_depth {self.max_depth} and max_args "
                f"{self.max_args} reaches min_length {self.min_length}; use a smaller min_length"
            )


@dataclass(frozen=True)
class Level:
    """The nodes of one depth.

    Attributes:
        arity: number of arguments; 0 for digits.
        choice: the digit 0..9, or the index of the operator in OPERATORS.
    """

    arity: Int64[np.ndarray, " nodes"]
    choice: Int64[np.ndarray, " nodes"]


def generate(
    root: Path,
    *,
    seed: int = 0,
    workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
    train: int = 96_000,
    validation: int = 2_000,
    test: int = 2_000,
    max_depth: int = 10,
    max_args: int = 10,
    min_length: int = 501,
    max_length: int = 1999,
) -> None:
    """Generate ListOps files in the official layout.

    The rows depend on `seed` and on the sizes, not on `workers`. All rows of all files are
    distinct. The folder `listops-1000` is created atomically. If it already exists with the same
    settings, nothing happens.

    Args:
        root: folder that holds all data sets.
        seed: random seed, not negative.
        workers: number of processes.
        on_progress: called with the number of rows written and the total.
        train: number of training rows.
        validation: number of validation rows.
        test: number of test rows.
        max_depth: maximal number of levels per expression.
        max_args: maximal number of arguments per operator.
        min_length: minimal number of tokens per expression.
        max_length: maximal number of tokens per expression.

    Raises:
        DataError: if the folder holds other data, a setting is out of range, there are not enough
            distinct expressions, or the folder cannot be written.
    """
    shape = Shape(
        max_depth=max_depth, max_args=max_args, min_length=min_length, max_length=max_length
    )
    sizes = {"train": train, "validation": validation, "test": test}
    for name, value in {"seed": seed, **sizes}.items():
        if value < 0:
            raise DataError(f"ListOps: {name} must be at least 0; got {value}")
    about = {"generator": "listops", "version": VERSION, "seed": seed, **sizes, **asdict(shape)}
    target = root / FOLDER
    total = sum(sizes.values())
    if _is_made(target, about):
        return
    with staging_folder(target) as folder:
        if _is_made(target, about):  # another process has made it
            return
        with contextlib.closing(distinct_rows(seed, shape, workers=workers)) as rows:
            done = 0
            for split, size in sizes.items():
                with (folder / FILES[split]).open("wb") as file:
                    file.write(HEADER)
                    for row in itertools.islice(rows, size):
                        file.write(row)
                        done += 1
                        if on_progress is not None and (done % 256 == 0 or done == total):
                            on_progress(done, total)
        (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        publish(folder, target)


def distinct_rows(
    seed: int, shape: Shape, *, workers: int = 1
) -> Generator[memoryview, None, None]:
    """Endless distinct lines `<expression>TAB<value>CRLF`.

    Raises:
        DataError: if no more distinct lines are found.
    """
    # The memory per tree is proportional to the maximal length.
    trees = max(1, _TREES * 2000 // max(2000, shape.max_length))
    draw = partial(_block, seed, shape, trees)
    seen: set[bytes] = set()
    fruitless = 0
    with contextlib.closing(ordered_map(draw, itertools.count(), workers=workers)) as blocks:
        for lines, ends, digests in blocks:
            before = len(seen)
            start = 0
            for end, digest in zip(ends, digests, strict=True):
                if digest not in seen:
                    seen.add(digest)
                    yield memoryview(lines)[start:end]
                start = end
            fruitless = 0 if len(seen) > before else fruitless + trees
            if fruitless >= _FRUITLESS:
                raise DataError(
                    f"ListOps: found {len(seen)} distinct expressions, then none in "
                    f"{fruitless:,} draws; use fewer rows or other lengths"
                )


def draw_trees(bits: np.random.BitGenerator, trees: int, shape: Shape) -> list[Level]:
    """Draw `trees` trees and return those whose length `shape` allows, in order.

    Entry k of the result holds depth k + 1. Above the maximal depth, a node is an operator with
    probability 1/4 and a digit otherwise. Operators, digits and numbers of arguments are uniform.
    """
    levels = []
    owners = []
    tree = np.arange(trees)
    length = np.zeros(trees, np.int64)
    short_enough = np.ones(trees, bool)
    for depth in itertools.count(1):
        # One 64-bit word per node, split by this code, because numpy's distributions may change
        # between versions.
        word = bits.random_raw(len(tree))
        operator = (word >> 62 == 0) & (depth < shape.max_depth)
        arity = np.where(operator, 2 + _below(shape.max_args - 1, word >> 2), 0)
        choice = np.where(operator, (word & 3).astype(np.int64), _below(10, word >> 2))
        levels.append(Level(arity, choice))
        owners.append(tree)
        length += np.bincount(tree, 1 + operator, trees).astype(np.int64)
        # Drop trees that would be too long even if all remaining nodes were digits.
        short_enough &= length + np.bincount(tree, arity, trees) <= shape.max_length
        below = np.repeat(tree, arity)
        tree = below[short_enough[below]]
        if not len(tree):
            break
    kept = short_enough & (length >= shape.min_length)
    return [_select(level, kept[tree]) for level, tree in zip(levels, owners, strict=True)]


def evaluate(levels: list[Level]) -> list[Int64[np.ndarray, " nodes"]]:
    """The value 0..9 of each node, level by level.

    For an even number of arguments, MED is the mean of the two middle values, rounded down.
    """
    values = [levels[-1].choice]
    for level in reversed(levels[:-1]):
        operator = level.arity > 0
        value = level.choice.copy()
        value[operator] = _apply(level.choice[operator], level.arity[operator], values[-1])
        values.append(value)
    return values[::-1]


def write_lines(
    levels: list[Level], values: Int64[np.ndarray, " trees"]
) -> tuple[UInt8[np.ndarray, " bytes"], Int64[np.ndarray, " trees"]]:
    """The lines `<expression>TAB<value>CRLF` of all trees, and the end of each line.

    A node `OP` with arguments a, b is written `( ( ( [OP a ) b ) ] )`, as if the operator were
    applied to one argument after the other, and finally to the closing bracket.
    """
    widths = _widths(levels)
    ends = np.cumsum(widths[0] + len("\t0\r\n"))
    text = np.full(ends[-1] if len(ends) else 0, ord(" "), np.uint8)
    for place, mark in ((-4, "\t"), (-2, "\r"), (-1, "\n")):
        text[ends + place] = ord(mark)
    text[ends - 3] = ord("0") + values
    starts = ends - 4 - widths[0]
    for level, width, below in zip(levels, widths, [*widths[1:], widths[0][:0]], strict=True):
        operator = level.arity > 0
        text[starts[~operator]] = ord("0") + level.choice[~operator]
        starts = _write_operators(text, starts[operator], width[operator], level, below)
    return text, ends


def _write_operators(
    text: UInt8[np.ndarray, " bytes"],
    starts: Int64[np.ndarray, " operators"],
    widths: Int64[np.ndarray, " operators"],
    level: Level,
    below: Int64[np.ndarray, " arguments"],
) -> Int64[np.ndarray, " arguments"]:
    """Write the operators of a level without arguments; return where the arguments start."""
    operator = level.arity > 0
    arity = level.arity[operator]
    choice = level.choice[operator]
    opening = arity + 1
    text[_spread(starts, opening, np.full(opening.sum(), 2))] = ord("(")
    name = starts + 2 * opening
    text[name] = ord("[")
    for letter in range(3):
        text[name + 1 + letter] = _NAMES[choice, letter]
    text[starts + widths - 3] = ord("]")
    text[starts + widths - 1] = ord(")")
    arguments = _spread(name + _NAME_LENGTHS[choice] + 2, arity, below + 3)
    text[arguments + below + 1] = ord(")")
    return arguments


def _widths(levels: list[Level]) -> list[Int64[np.ndarray, " nodes"]]:
    """Number of characters of the expression of each node."""
    widths = [np.ones(len(levels[-1].arity), np.int64)]
    for level in reversed(levels[:-1]):
        operator = level.arity > 0
        arity = level.arity[operator]
        name = _NAME_LENGTHS[level.choice[operator]] + 2
        width = np.ones(len(operator), np.int64)
        width[operator] = (
            2 * (arity + 1) + name + np.add.reduceat(widths[-1] + 3, _firsts(arity)) + 3
        )
        widths.append(width)
    return widths[::-1]


def _apply(
    operator: Int64[np.ndarray, " operators"],
    arity: Int64[np.ndarray, " operators"],
    arguments: Int64[np.ndarray, " arguments"],
) -> Int64[np.ndarray, " operators"]:
    """Result of each operator; `arguments` are concatenated."""
    first = _firsts(arity)
    owner = 10 * np.arange(len(arity))
    ranked = np.sort(np.repeat(owner, arity) + arguments)  # ascending within each operator
    middles = ranked[first + (arity - 1) // 2] + ranked[first + arity // 2] - 2 * owner
    results = (
        np.minimum.reduceat(arguments, first),
        np.maximum.reduceat(arguments, first),
        middles // 2,
        np.add.reduceat(arguments, first) % 10,
    )
    return np.choose(operator, results)


def _firsts(arity: Int64[np.ndarray, " operators"]) -> Int64[np.ndarray, " operators"]:
    """Index of the first argument of each operator."""
    return np.cumsum(arity) - arity


def _spread(
    starts: Int64[np.ndarray, " groups"],
    counts: Int64[np.ndarray, " groups"],
    steps: Int64[np.ndarray, " items"],
) -> Int64[np.ndarray, " items"]:
    """Positions of items: each group starts at `starts`, then advances by `steps`."""
    before = np.cumsum(steps) - steps
    return before + np.repeat(starts - before[_firsts(counts)], counts)


def _below(limit: int, word: UInt64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Uniform integers 0..limit-1 from the 32 lowest bits of each word."""
    return ((word & 0xFFFFFFFF) * np.uint64(limit) >> 32).astype(np.int64)


def _select(level: Level, kept: Bool[np.ndarray, " nodes"]) -> Level:
    return Level(level.arity[kept], level.choice[kept])


def _block(
    seed: int, shape: Shape, trees: int, number: int
) -> tuple[bytes, list[int], list[bytes]]:
    """Lines of draw `number` of `trees` trees, their ends, and a digest of each line."""
    bits = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(number,)))
    levels = draw_trees(bits, trees, shape)
    text, ends = write_lines(levels, evaluate(levels)[0])
    lines = text.tobytes()
    bounds = [0, *ends.tolist()]
    digests = [
        hashlib.blake2b(memoryview(lines)[start:end], digest_size=16).digest()
        for start, end in itertools.pairwise(bounds)
    ]
    return lines, bounds[1:], digests


def _is_made(target: Path, about: Mapping[str, Any]) -> bool:
    """Whether `target` holds the rows of `about`; raises DataError if it holds other data."""
    if not exists(target):
        return False
    try:
        same = json.loads((target / ABOUT).read_text(encoding="utf-8")) == about
    except (OSError, ValueError):
        same = False
    if not same or not all((target / name).is_file() for name in FILES.values()):
        raise DataError(
            f"{target} exists and was not generated with these settings; move it, or choose "
            "another folder with --data-dir"
        )
    return True
