"""The ListOps generator: what it writes is right, distributed as published, whole, reproducible."""

import hashlib
import itertools
import json
import re
import signal
import statistics
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lastax.data import DataError, data_folder
from lastax.data._folders import find
from lastax.data.listops_generator import (
    OPERATORS,
    Level,
    Shape,
    distinct_rows,
    draw_trees,
    evaluate,
    generate,
    write_lines,
)

# A second reader of expressions. It follows the parentheses, which the generator never looks at.


def read_pairs(text):
    """`( a b )` as a tuple (a, b), at any depth."""
    tokens = text.split(" ")

    def read(start):
        if tokens[start] != "(":
            return tokens[start], start + 1
        left, middle = read(start + 1)
        right, end = read(middle)
        assert tokens[end] == ")"
        return (left, right), end + 1

    pairs, end = read(0)
    assert end == len(tokens)
    return pairs


def spine(pairs):
    """`(((op, a), b), "]")` as [op, a, b]."""
    parts = []
    while isinstance(pairs, tuple):
        pairs, right = pairs
        parts.append(right)
    assert parts.pop(0) == "]"
    return [pairs, *reversed(parts)]


def value_of(pairs):
    if isinstance(pairs, str):
        assert re.fullmatch(r"\d", pairs)
        return int(pairs)
    operator, *arguments = spine(pairs)
    values = [value_of(argument) for argument in arguments]
    return {
        "[MIN": lambda: min(values),
        "[MAX": lambda: max(values),
        "[MED": lambda: int(statistics.median(values)),
        "[SM": lambda: sum(values) % 10,
    }[operator]()


def depth_of(pairs):
    return 1 if isinstance(pairs, str) else 1 + max(map(depth_of, spine(pairs)[1:]))


def arities_of(pairs):
    if isinstance(pairs, str):
        return []
    arguments = spine(pairs)[1:]
    return [len(arguments), *itertools.chain.from_iterable(map(arities_of, arguments))]


def length_of(text):
    return len(text.replace("(", "").replace(")", "").split())


def split_line(line):
    text, target = re.fullmatch(r"([^\t\r\n]+)\t(\d)\r\n", bytes(line).decode()).groups()
    return text, int(target)


@pytest.mark.parametrize(
    ("text", "value", "length", "depth"),
    [
        ("7", 7, 1, 1),
        ("( ( ( [MAX 2 ) 9 ) ] )", 9, 4, 2),
        ("( ( ( ( [MED 1 ) 2 ) ( ( ( ( [SM 9 ) 9 ) 8 ) ] ) ) ] )", 2, 9, 3),
        ("( ( ( ( ( [MED 7 ) 3 ) 4 ) 9 ) ] )", 5, 6, 2),  # 5.5, the middle of 4 and 7
    ],
)
def test_the_second_reader_agrees_with_hand_computed_values(text, value, length, depth):
    pairs = read_pairs(text)
    assert (value_of(pairs), length_of(text), depth_of(pairs)) == (value, length, depth)


# Single expressions


def levels_of(trees):
    """Trees, nested tuples (operator, argument, ...), as the generator's levels."""
    levels, nodes = [], list(trees)
    while nodes:
        arity = [len(node) - 1 if isinstance(node, tuple) else 0 for node in nodes]
        choice = [OPERATORS.index(n[0]) if isinstance(n, tuple) else n for n in nodes]
        levels.append(Level(np.array(arity), np.array(choice)))
        nodes = [child for node in nodes if isinstance(node, tuple) for child in node[1:]]
    return levels or [Level(np.zeros(0, np.int64), np.zeros(0, np.int64))]


def printed(tree):
    if not isinstance(tree, tuple):
        return str(tree)
    text = f"[{tree[0]}"
    for part in [*map(printed, tree[1:]), "]"]:
        text = f"( {text} {part} )"
    return text


digits = st.integers(0, 9)
trees = st.recursive(
    digits,
    lambda below: st.builds(
        lambda operator, arguments: (operator, *arguments),
        st.sampled_from(OPERATORS),
        st.lists(below, min_size=1, max_size=13),
    ),
    max_leaves=40,
)


@settings(max_examples=100, deadline=None)
@given(st.lists(trees, max_size=5))
def test_any_tree_is_written_and_evaluated_right(trees):
    levels = levels_of(trees)
    values = evaluate(levels)[0]
    text, ends = write_lines(levels, values)
    expected = [printed(tree) for tree in trees]
    assert values.tolist() == [value_of(read_pairs(text)) for text in expected]
    lines = [f"{text}\t{value}\r\n" for text, value in zip(expected, values, strict=True)]
    assert text.tobytes().decode() == "".join(lines)
    assert ends.tolist() == list(itertools.accumulate(map(len, lines)))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**64),
    max_depth=st.integers(2, 6),
    max_args=st.integers(2, 12),
    data=st.data(),
)
def test_every_row_has_the_shape_asked_for_and_its_value(seed, max_depth, max_args, data):
    longest = 2 + max_args if max_depth == 2 else 2 + 2 * max_args
    shortest = data.draw(st.integers(1, longest))
    shape = Shape(
        max_depth=max_depth,
        max_args=max_args,
        min_length=shortest,
        max_length=shortest + data.draw(st.integers(3, 40)),  # 2 and 3 do not occur
    )
    lines = [bytes(line) for line in itertools.islice(distinct_rows(seed, shape), 8)]
    assert len(set(lines)) == 8
    for line in lines:
        text, target = split_line(line)
        pairs = read_pairs(text)
        assert value_of(pairs) == target
        assert shape.min_length <= length_of(text) <= shape.max_length
        assert depth_of(pairs) <= max_depth
        assert all(2 <= arity <= max_args for arity in arities_of(pairs))


@pytest.mark.parametrize(("max_depth", "max_args"), [(2, 2), (2, 5), (3, 3), (4, 2)])
def test_the_largest_expression_can_be_asked_for(max_depth, max_args):
    longest = 1
    for _ in range(max_depth - 1):
        longest = 2 + max_args * longest
    settings = {"max_depth": max_depth, "max_args": max_args}
    if max_depth == 2:  # deeper ones exist, but take a million draws and more
        exact = Shape(min_length=longest, max_length=longest, **settings)
        assert length_of(split_line(next(distinct_rows(0, exact)))[0]) == longest
    with pytest.raises(DataError, match=f"reaches min_length {longest + 1}; use a smaller"):
        Shape(min_length=longest + 1, max_length=2 * longest, **settings)
    Shape(min_length=longest, max_length=longest, **settings)


def test_depth_may_be_unlimited():
    deep = Shape(max_depth=10**12, min_length=400, max_length=500)
    text, target = split_line(next(distinct_rows(0, deep)))
    assert value_of(read_pairs(text)) == target
    assert depth_of(read_pairs(text)) > 10


# The distribution


def uniform(values, low, high):
    """Whether `values` look uniform over low..high: chi squared within five deviations."""
    counts = np.bincount(values - low, minlength=high - low + 1)
    assert len(counts) == high - low + 1
    expected = len(values) / len(counts)
    chi = np.sum((counts - expected) ** 2) / expected
    freedom = len(counts) - 1
    return abs(chi - freedom) < 5 * np.sqrt(2 * freedom)


def test_trees_are_drawn_as_published():
    everything = Shape(max_depth=6, min_length=1, max_length=10**9)
    levels = draw_trees(np.random.PCG64(1), 40_000, everything)
    assert len(levels) == 6
    for level, below in itertools.pairwise([*levels, None]):
        operator = level.arity > 0
        if below is None:
            assert not operator.any()
        else:
            nodes = len(operator)
            assert abs(operator.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / nodes)
            assert uniform(level.arity[operator], 2, 10)
            assert uniform(level.choice[operator], 0, 3)
            assert len(below.arity) == level.arity.sum()
            # The words' fields overlap nowhere: what one of them says nothing of another.
            assert uniform(level.choice[operator & (level.arity < 4)], 0, 3)
        assert uniform(level.choice[~operator], 0, 9)


def test_trees_of_a_length_are_those_of_all_trees_that_have_it():
    """Giving long trees up early changes no probability."""
    deep = {"max_depth": 4, "max_args": 4, "min_length": 12}
    some = draw_trees(np.random.PCG64(3), 100_000, Shape(max_length=20, **deep))
    every = draw_trees(np.random.PCG64(4), 100_000, Shape(max_length=10**9, **deep))
    found = [lengths(levels) for levels in (some, every)]
    found[1] = found[1][found[1] <= 20]
    assert min(map(len, found)) > 2000
    shares = [np.bincount(one, minlength=21)[12:] / len(one) for one in found]
    assert len(shares[0]) == 9
    error = np.sqrt(shares[1] * (1 / len(found[0]) + 1 / len(found[1])))
    assert np.all(np.abs(shares[0] - shares[1]) < 5 * error)


def lengths(levels):
    """Tokens of each tree, from its arities alone."""
    sizes = np.ones(len(levels[-1].arity), np.int64)
    for level in reversed(levels[:-1]):
        total = np.concatenate([[0], np.cumsum(sizes)])
        last = np.cumsum(level.arity)
        sizes = np.where(level.arity > 0, 2, 1) + total[last] - total[last - level.arity]
    return sizes


def check_published_figures(sizes, values, drawn, slack):
    """The figures of a simulation of the published generator; `slack` in standard errors."""
    rows = len(sizes)
    assert abs(rows / drawn - 0.083) < 0.0005 + slack * np.sqrt(0.083 / drawn)
    assert abs(sizes.mean() - 1037) < 1 + slack * sizes.std() / np.sqrt(rows)
    # The error of a median where the density is about 1/1500 a token.
    assert abs(np.median(sizes) - 956) < 1 + slack * 750 / np.sqrt(rows)
    assert 501 <= sizes.min() < 530
    assert 1960 < sizes.max() <= 1999
    shares = np.bincount(values, minlength=10) / rows
    error = slack * np.sqrt(shares / rows)
    assert abs(shares[0] - 0.168) < 0.0005 + error[0]
    assert abs(shares[9] - 0.170) < 0.0005 + error[9]
    assert np.all(shares[1:9] > 0.0725 - error[1:9])
    assert np.all(shares[1:9] < 0.0935 + error[1:9])


def test_rows_have_the_published_lengths_and_labels():
    sizes, values = [], []
    for block in range(16):
        levels = draw_trees(np.random.PCG64(block), 4096, Shape())
        assert len(levels) == 10
        sizes.append(lengths(levels))
        values.append(evaluate(levels)[0])
    check_published_figures(np.concatenate(sizes), np.concatenate(values), 16 * 4096, slack=4)


@pytest.mark.slow
def test_many_rows_have_the_published_lengths_and_labels_and_are_right(tmp_path):
    generate(tmp_path, train=30_000, validation=1000, test=1000)
    rows = [split_line(line) for line in read_rows(tmp_path)]
    sizes = np.array([length_of(text) for text, _ in rows])
    values = np.array([value for _, value in rows])
    check_published_figures(sizes, values, drawn=len(rows) / 0.083, slack=3)
    for text, value in rows[::10]:
        assert value_of(read_pairs(text)) == value


def published_files():
    folder = find(data_folder(), "listops-1000")
    if folder is None:
        pytest.skip("LASTAX_DATA has no listops-1000")
    return folder.parent


@pytest.mark.slow
def test_rows_of_the_published_generator_have_the_values_that_ours_would_have():
    for line in read_rows(published_files()):
        text, target = split_line(line)
        assert value_of(read_pairs(text)) == target


@pytest.mark.slow
def test_rows_are_distributed_like_those_of_the_published_generator():
    theirs = [split_line(line) for line in read_rows(published_files())]
    ours = [split_line(line) for line in itertools.islice(distinct_rows(7, Shape()), 20_000)]
    both = [np.array([length_of(text) for text, _ in rows]) for rows in (theirs, ours)]
    points = np.arange(501, 2000)
    curves = [np.searchsorted(np.sort(sizes), points, "right") / len(sizes) for sizes in both]
    scale = np.sqrt(sum(1 / len(sizes) for sizes in both))
    # Kolmogorov and Smirnov: beyond 1.95 once in a thousand.
    assert np.abs(curves[0] - curves[1]).max() < 1.95 * scale
    shares = [np.bincount([value for _, value in rows]) / len(rows) for rows in (theirs, ours)]
    assert np.all(np.abs(shares[0] - shares[1]) < 4 * np.sqrt(shares[1]) * scale)
    depths = [
        np.mean([depth_of(read_pairs(text)) == 10 for text, _ in rows[:2000]])
        for rows in (theirs, ours)
    ]
    assert min(depths) > 0.99


# The files


SMALL = {"max_depth": 5, "min_length": 10, "max_length": 60}


def read_rows(root):
    """All rows, in the order train, validation, test, their line ends included."""
    rows = []
    for name in ("train", "val", "test"):
        content = (root / f"listops-1000/basic_{name}.tsv").read_bytes()
        header, *lines = content.splitlines(keepends=True)
        assert header == b"Source\tTarget\r\n"
        rows.extend(lines)
    return rows


def contents(root):
    folder = root / "listops-1000"
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_have_the_official_layout(tmp_path):
    generate(tmp_path, train=50, validation=7, test=9, **SMALL)
    assert names(tmp_path) == ["listops-1000"]
    files = contents(tmp_path)
    assert {
        name: content.count(b"\r\n") - 1 for name, content in files.items() if "tsv" in name
    } == {
        "basic_train.tsv": 50,
        "basic_val.tsv": 7,
        "basic_test.tsv": 9,
    }
    about = json.loads(files["made.json"])
    assert (about["seed"], about["train"], about["max_depth"]) == (0, 50, 5)
    for line in read_rows(tmp_path):
        text, target = split_line(line)
        assert value_of(read_pairs(text)) == target


def test_a_part_without_rows_is_a_header(tmp_path):
    generate(tmp_path, train=3, validation=0, test=0, **SMALL)
    assert len(read_rows(tmp_path)) == 3
    assert contents(tmp_path)["basic_val.tsv"] == b"Source\tTarget\r\n"


def test_no_row_occurs_twice_in_any_file(tmp_path):
    tiny = {"max_depth": 2, "max_args": 2, "min_length": 1, "max_length": 4}
    everything = 10 + 4 * 10 * 10
    generate(tmp_path, train=everything - 100, validation=60, test=40, **tiny)
    rows = read_rows(tmp_path)
    assert len(rows) == len(set(rows)) == everything  # every expression there is
    with pytest.raises(DataError, match=rf"found {everything} distinct expressions.*use fewer"):
        generate(tmp_path / "more", train=everything, validation=1, test=0, **tiny)
    assert names(tmp_path / "more") == []


def test_a_seed_gives_these_rows():
    """Rows of a seed never change: others compare with what was trained on them.

    After a change that is meant, count VERSION up and put the new digest here.
    """
    rows = itertools.islice(distinct_rows(0, Shape()), 400)
    digest = hashlib.sha256(b"".join(rows)).hexdigest()
    assert digest == "dd9b9d58a4f0fd770d4153be92072fdc215b0f3deced7d94e4996a1a9cd6891e"


def test_rows_do_not_depend_on_workers_and_sizes_only_cut_them(tmp_path):
    # Lengths that are rare, so that many blocks are drawn.
    rare = {"max_depth": 5, "max_args": 4, "min_length": 45, "max_length": 47}
    options = {"train": 60, "validation": 10, "test": 10, **rare}
    generate(tmp_path / "one", **options)
    generate(tmp_path / "two", workers=2, **options)
    generate(tmp_path / "other", seed=1, **options)
    generate(tmp_path / "longer", **{**options, "train": 90})
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    rows = read_rows(tmp_path / "one")
    assert rows == read_rows(tmp_path / "longer")[:80]
    assert len(set(rows) & set(read_rows(tmp_path / "other"))) < 8


def test_progress_counts_rows(tmp_path):
    seen = []
    generate(
        tmp_path,
        train=600,
        validation=10,
        test=20,
        on_progress=lambda done, total: seen.append((done, total)),
        **SMALL,
    )
    assert seen == [(256, 630), (512, 630), (630, 630)]


def test_the_same_again_is_already_there(tmp_path):
    options = {"train": 300, "validation": 1, "test": 1, **SMALL}
    generate(tmp_path, **options)
    before = contents(tmp_path)
    generate(tmp_path, **options, on_progress=lambda *_: pytest.fail("made again"))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("change", ["seed", "size", "shape", "files", "description", "official"])
def test_other_data_is_not_overwritten(tmp_path, change):
    options = {"seed": 0, "train": 3, "validation": 1, "test": 1, **SMALL}
    generate(tmp_path, **options)
    folder = tmp_path / "listops-1000"
    if change == "files":
        (folder / "basic_val.tsv").unlink()
    elif change == "description":
        (folder / "made.json").write_text("{")
    elif change == "official":
        (folder / "made.json").unlink()
    before = contents(tmp_path)
    options |= {"seed": {"seed": 1}, "size": {"test": 2}, "shape": {"max_length": 61}}.get(
        change, {}
    )
    with pytest.raises(DataError, match=r"listops-1000 exists and was not.*move it") as caught:
        generate(tmp_path, **options)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed must be at least 0; got -1"),
        ({"train": -5}, "train must be at least 0; got -5"),
        ({"workers": 0}, "workers must be 1 or more; got 0"),
        ({"max_args": 1}, "max_args must be at least 2; got 1"),
        ({"max_args": 10**20}, "max_args must be at most 2,147,483,648; got 10"),
        ({"max_depth": 0}, "max_depth must be at least 1; got 0"),
        ({"min_length": 0}, "min_length must be at least 1; got 0"),
        ({"max_length": 500}, "max_length must be at least 501; got 500"),
        ({"max_depth": 3}, "no expression with max_depth 3 and max_args 10 reaches min_length 501"),
    ],
)
def test_settings_without_sense_are_named(tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        generate(tmp_path, **options)
    assert names(tmp_path) == []


# Misfortunes


@pytest.mark.parametrize(
    ("error", "workers"),
    [
        (KeyboardInterrupt, 1),
        (MemoryError, 1),
        pytest.param(KeyboardInterrupt, 2, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_leaves_nothing(tmp_path, error, workers):
    def stop(done, total):
        assert (done, total) == (256, 3000)
        assert names(tmp_path) == [".listops-1000.lock", ".listops-1000.part"]
        raise error

    with pytest.raises(error):
        generate(
            tmp_path,
            train=1000,
            validation=1000,
            test=1000,
            workers=workers,
            on_progress=stop,
            **SMALL,
        )
    assert names(tmp_path) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, full_disk):
    limit, reason = full_disk
    with limit(tmp_path / "root", 2**20):
        with pytest.raises(DataError) as caught:
            generate(tmp_path / "root", train=400, validation=10, test=10)
        assert names(tmp_path / "root") == []
    message = str(caught.value)
    assert message.startswith(f"cannot write {tmp_path / 'root/listops-1000'} ({reason})")
    assert "--data-dir" in message
    assert "\n" not in message


def test_a_folder_that_may_not_be_written_is_named(unprivileged):
    (unprivileged / "root").mkdir(mode=0o500)
    with pytest.raises(DataError, match=r"^cannot write .*listops-1000 \(Permission denied\)"):
        generate(unprivileged / "root", train=1, validation=1, test=1, **SMALL)


def test_a_file_where_the_folder_should_be_is_named(tmp_path):
    (tmp_path / "listops-1000").write_text("")
    with pytest.raises(DataError, match="listops-1000 exists"):
        generate(tmp_path, train=1, validation=1, test=1, **SMALL)


def test_threads_that_make_the_same_at_once_make_it_once(tmp_path):
    made, failed = [], []

    def make():
        try:
            generate(
                tmp_path,
                train=500,
                validation=9,
                test=9,
                on_progress=lambda done, total: made.append(done == total),
                **SMALL,
            )
        except DataError as error:
            failed.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert made.count(True) == 1
    assert names(tmp_path) == ["listops-1000"]
    assert len(set(read_rows(tmp_path))) == 518


ENDLESS = """
import sys
from pathlib import Path
from lastax.data.listops_generator import generate

if __name__ == "__main__":
    tell = lambda done, total: print("alive", flush=True)
    generate(Path(sys.argv[1]), train=10**7, workers=2, on_progress=tell)
"""


@pytest.mark.slow
def test_after_a_kill_nothing_looks_finished_and_no_worker_lives(tmp_path):
    root = tmp_path / "root"
    script = tmp_path / "script.py"
    script.write_text(ENDLESS)
    with subprocess.Popen(
        [sys.executable, str(script), str(root)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "alive\n"
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        # The workers hold the same pipe: its end is theirs.
        process.stdout.read()
    assert names(root) == [".listops-1000.lock", ".listops-1000.part"]
    generate(root, train=3, validation=1, test=1, **SMALL)
    assert names(root) == ["listops-1000"]
