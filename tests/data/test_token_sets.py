"""`listops`, `text` and `retrieval`: on small files as published, on real ones, on bad ones."""

import collections
import contextlib
import itertools
import os
import pickle
import shutil
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from lastax.data import DATASETS, DataError, Source, training_batches

from . import token_fixtures

NAMES = ("listops", "text", "retrieval")
SPLITS = ("train", "validation", "test")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LASTAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path):
    """A copy of the fixtures, to be damaged."""
    return Path(shutil.copytree(token_fixtures.FIXTURES, tmp_path / "root"))


def open_set(name, root=token_fixtures.FIXTURES, **options):
    return DATASETS[name].open(root, **options)


def words(data, record):
    """The tokens of a record (of one text), from what it says its length is."""
    return [data.vocabulary[token] for token in record["x"][: record["length"]]]


def characters(texts, length, minimum):
    """The vocabulary of texts, counted by plain Python."""
    counts = collections.Counter(c for text in texts for c in text[: length - 1])
    common = [c for c in counts if counts[c] >= minimum]
    return ("<pad>", "<unk>", "<eos>", *sorted(common, key=lambda c: (-counts[c], c)))


def review_files(root, split):
    return [path for label in ("neg", "pos") for path in sorted((root / split / label).iterdir())]


# The fixtures


def test_fixtures_match_their_script(tmp_path):
    token_fixtures.main(tmp_path)
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(made) == 36
    for path in made:
        kept = token_fixtures.FIXTURES / path.relative_to(tmp_path)
        assert kept.read_bytes() == path.read_bytes(), kept


@pytest.mark.parametrize("name", NAMES)
def test_records_match_the_description_of_the_data_set(name):
    data = open_set(name)
    shape = (2, data.length) if data.pairs else (data.length,)
    assert DATASETS[name].present(token_fixtures.FIXTURES)
    assert data.input_size == len(data.vocabulary)
    assert data.vocabulary[:3] == ("<pad>", "<unk>", "<eos>")
    assert data.skipped == 0
    assert data.augment is None
    assert set(data.sources) == set(SPLITS) == set(DATASETS[name].expected)
    for source in data.sources.values():
        assert isinstance(source, Source)
        assert len(source) > 0
        for record in source:
            assert record["x"].shape == shape
            assert record["length"].shape == shape[:-1]
            assert {value.dtype for value in record.values()} == {np.dtype(np.int32)}
            assert 0 <= record["label"] < len(data.classes)
            steps = np.arange(data.length)
            real = steps < np.expand_dims(record["length"], -1)
            np.testing.assert_array_equal(record["x"] != 0, real)  # no padding inside
            ends = steps == np.expand_dims(record["length"] - 1, -1)
            np.testing.assert_array_equal(record["x"][ends], 2)


def test_listops_are_the_symbols_and_values_of_the_file():
    data = open_set("listops")
    assert (data.length, data.input_size, data.classes) == (2048, 18, tuple("0123456789"))
    for split, name in zip(SPLITS, ("train", "val", "test"), strict=True):
        expected = token_fixtures.EXPRESSIONS[name]
        assert len(data.sources[split]) == len(expected)
        for record, (tree, value) in zip(data.sources[split], expected, strict=True):
            symbols = [s for s in token_fixtures.expression(tree).split() if s not in "()"]
            assert words(data, record) == [*symbols, "<eos>"]
            assert record["label"] == value


def test_texts_are_the_characters_of_their_files():
    reviews = token_fixtures.FIXTURES / "aclImdb"
    data = open_set("text", validation="published")
    assert data.length == 4096
    train = [path.read_text("utf-8") for path in review_files(reviews, "train")]
    assert data.vocabulary == characters(train, 4096, 15)
    assert "<" in data.vocabulary  # line breaks of HTML stay
    assert "\N{LATIN SMALL LETTER E WITH ACUTE}" not in data.vocabulary  # too rare
    for split in ("train", "test"):
        files = review_files(reviews, split)
        assert len(data.sources[split]) == len(files) == {"train": 24, "test": 6}[split]
        for record, path in zip(data.sources[split], files, strict=True):
            text = path.read_text("utf-8")
            expected = [c if c in data.vocabulary else "<unk>" for c in text]
            assert words(data, record) == [*expected, "<eos>"]
            assert data.classes[record["label"]] == path.parent.name


def test_a_tenth_of_the_training_texts_is_held_out():
    published, data = open_set("text", validation="published"), open_set("text")
    assert published.sources["validation"] is published.sources["test"]
    assert [len(data.sources[split]) for split in SPLITS] == [21, 3, 6]
    texts = [record["x"].tobytes() for record in published.sources["train"]]
    parts = [record["x"].tobytes() for s in SPLITS[:2] for record in data.sources[s]]
    assert sorted(parts) == sorted(texts)
    assert parts != texts
    assert data.vocabulary == published.vocabulary
    with pytest.raises(ValueError, match=r"validation must be one of .*; got 'test'"):
        open_set("text", validation="test")


def test_pairs_are_the_texts_of_their_columns():
    data = open_set("retrieval")
    assert (data.length, data.pairs) == (4000, True)
    tables = {}
    for split, name in zip(SPLITS, ("train", "eval", "test"), strict=True):
        path = token_fixtures.FIXTURES / f"tsv_data/new_aan_pairs.{name}.tsv"
        tables[split] = [line.split("\t") for line in path.read_text("utf-8").splitlines()]
    assert [len(table) for table in tables.values()] == [8, 3, 4]
    texts = [text for row in tables["train"] for text in row[3:]]
    assert data.vocabulary == characters(texts, 4000, 1)
    assert '"' in data.vocabulary
    for split, table in tables.items():
        for record, row in zip(data.sources[split], table, strict=True):
            assert record["label"] == float(row[0])
            for x, length, text in zip(record["x"], record["length"], row[3:], strict=True):
                known = [c if c in data.vocabulary else "<unk>" for c in text]
                assert [data.vocabulary[t] for t in x[:length]] == [*known, "<eos>"]


def test_long_texts_are_cut_and_end_all_the_same(root):
    long = "( " * 3000 + "7" + " ) ]" * 3000
    with (root / "listops-1000/basic_val.tsv").open("a") as file:
        file.write(f"{long}\t7\r\n")
    (root / "aclImdb/test/neg/99_1.txt").write_text("e" * 4095 + "!" * 3)
    with (root / "tsv_data/new_aan_pairs.test.tsv").open("a") as file:
        file.write(f"1.0\ta\tb\t{'e' * 3999}\t{'e' * 4000}\n")
    for name, split, number in (
        ("listops", "validation", -1),
        ("text", "test", 3),
        ("retrieval", "test", -1),
    ):
        data = open_set(name, root)
        record = data.sources[split][number]
        kept = data.vocabulary[record["x"].reshape(-1, data.length)[0][-2]]
        assert np.all(record["length"] == data.length)
        assert np.all(record["x"][..., -1] == 2)
        assert kept == ("]" if name == "listops" else "e")


def test_characters_frequent_in_the_kept_training_texts_have_tokens(root):
    (root / "aclImdb/train/neg/99_1.txt").write_text("^" * 15 + "~" * 14 + "e" * 5000 + "~")
    (root / "aclImdb/test/neg/99_1.txt").write_text("#" * 20)
    vocabulary = open_set("text", root).vocabulary
    assert [character in vocabulary for character in "^~#"] == [True, False, False]
    for split in ("train", "test"):
        with (root / f"tsv_data/new_aan_pairs.{split}.tsv").open("a") as file:
            file.write(f"1.0\ta\tb\t{'^~'[split == 'test']}{'e' * 4000}#\te\n")
    vocabulary = open_set("retrieval", root).vocabulary
    assert [character in vocabulary for character in "^~#"] == [True, False, False]


def test_a_release_may_be_nested_as_it_comes(root, tmp_path):
    nested = tmp_path / "below/lra_release/lra_release"
    nested.parent.mkdir(parents=True)
    root.rename(nested)
    for name in NAMES:
        assert len(open_set(name, tmp_path / "below").sources["test"]) > 0


# Prepared files


@pytest.mark.parametrize("name", NAMES)
def test_files_are_read_once(root, name, monkeypatch):
    first = open_set(name, root)
    monkeypatch.setattr(f"lastax.data.{name}._prepare", lambda *_, **__: pytest.fail("again"))
    again = open_set(name, root)
    assert again.vocabulary == first.vocabulary
    for split in SPLITS:
        for one, other in zip(first.sources[split], again.sources[split], strict=True):
            np.testing.assert_array_equal(one["x"], other["x"])


def test_files_that_changed_are_read_again(root):
    path = root / "listops-1000/basic_val.tsv"
    assert len(open_set("listops", root).sources["validation"]) == 3
    path.write_bytes(path.read_bytes() + b"5\t5\r\n")
    assert len(open_set("listops", root).sources["validation"]) == 4


@pytest.mark.parametrize("name", NAMES)
def test_sources_are_small_when_pickled(name):
    for source in open_set(name).sources.values():
        list(source)
        packed = pickle.dumps(source)
        assert len(packed) < 1500
        np.testing.assert_array_equal(pickle.loads(packed)[0]["x"], source[0]["x"])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_worker_processes_give_the_same_batches(name):
    source = open_set(name).sources["train"]
    taken = []
    for workers in (0, 2):
        batches = training_batches(source, batch_size=4, seed=3, workers=workers)
        with contextlib.closing(batches):
            taken.append(list(itertools.islice(batches, 7)))
    for one, other in zip(*taken, strict=True):
        for key in ("x", "label", "length"):
            np.testing.assert_array_equal(one[key], other[key])


def write_long_papers(root, rows):
    """Training pairs of two texts of 4,000 characters, and one pair for each of the rest."""
    line = f"1.0\ta\tb\t{'abc ' * 1000}\t{'xyz ' * 1000}\n"
    for split, count in {"train": rows, "eval": 1, "test": 1}.items():
        token_fixtures.write(root / f"tsv_data/new_aan_pairs.{split}.tsv", line * count)


def test_preparing_needs_no_more_memory_for_more_rows(tmp_path):
    peaks = []
    for rows in (300, 900):
        root = tmp_path / str(rows)
        write_long_papers(root, rows)
        tracemalloc.start()
        assert len(open_set("retrieval", root).sources["train"]) == rows
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_a_full_disk_leaves_nothing(tmp_path, cache, full_disk):
    write_long_papers(tmp_path, 100)
    limit, reason = full_disk
    with limit(cache, 500_000):  # of 800,000 tokens
        message = failure("retrieval", tmp_path)
    assert message.startswith(f"cannot prepare retrieval in {cache / 'prepared'} ({reason}")
    assert len(open_set("retrieval", tmp_path).sources["train"]) == 100


# Faults


@pytest.mark.parametrize("name", NAMES)
def test_errors_about_missing_files_name_their_source(root, name):
    folder = {"listops": "listops-1000", "text": "aclImdb", "retrieval": "tsv_data"}[name]
    cure = {
        "listops": "lastax data make listops",
        "text": "lastax data fetch text",
        "retrieval": "lra_release.gz",
    }[name]
    inner = sorted(path for path in (root / folder).iterdir())[0]
    for gone in (inner, root / folder):
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        assert not DATASETS[name].present(root)
        message = failure(name, root, skip_bad=True)
        assert message.startswith(f"not found: {gone}")
        assert cure in message
        assert "--data-dir" in message


def failure(name, root, **options):
    with pytest.raises(DataError) as caught:
        open_set(name, root, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert list(Path(os.environ["LASTAX_CACHE"]).rglob("*.npy")) == []  # nothing half made
    return message


LISTOPS = "listops-1000/basic_train.tsv"
REVIEW = "aclImdb/train/pos/5_8.txt"
PAPERS = "tsv_data/new_aan_pairs.train.tsv"
FAULTS = {
    "a column less": ("listops", LISTOPS, b"( [MAX 1 ) ]", ", row 4: 1 columns instead of 2"),
    "label above": ("listops", LISTOPS, b"7\t10", ", row 4: label '10' is not in 0..9"),
    "no label": ("listops", LISTOPS, b"7\tseven", ", row 4: label 'seven' is not in 0..9"),
    "no symbol": ("listops", LISTOPS, b"( [MIX 1 ) ]\t1", ", row 4: '[MIX' is not a symbol"),
    "no source": ("listops", LISTOPS, b"\t1", ", row 4: '' is not a symbol"),
    "other bytes": ("listops", LISTOPS, b"\xff\xfe1\t1", r", row 4: '\\xff\\xfe1' is not a symbol"),
    "empty file": ("text", REVIEW, b"", " is empty"),
    "no UTF-8": ("text", REVIEW, b"caf\xe9 noir", " is not UTF-8 at byte 3"),
    "no texts": ("retrieval", PAPERS, b"1.0\ta\tb", ", row 4: 3 columns instead of 5"),
    "label between": ("retrieval", PAPERS, b"0.5\ta\tb\tc\td", ", row 4: label '0.5' is not in"),
    "paper not UTF-8": ("retrieval", PAPERS, b"1.0\ta\tb\t\xff\td", ", row 4: not UTF-8"),
}


def put_in(path, content):
    """`content` as a whole review, or as the fourth line of a table."""
    if path.suffix == ".tsv":
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([*lines[:3], content + b"\r\n", *lines[4:]]))
    else:
        path.write_bytes(content)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_item_is_named_or_left_out(root, fault):
    name, path, content, reason = FAULTS[fault]
    put_in(root / path, content)
    message = failure(name, root)
    assert message.startswith(f"{root / path}{reason}")
    assert "--skip-bad" in message
    data, whole = open_set(name, root, skip_bad=True), open_set(name)
    assert data.skipped == 1
    lost = [len(whole.sources[split]) - len(data.sources[split]) for split in SPLITS]
    assert sum(lost) == 1
    assert lost[2] == 0


@pytest.mark.parametrize("content", [b"", b"no table at all"])
@pytest.mark.parametrize("name", ["listops", "retrieval"])
def test_an_invalid_table_is_an_error_even_with_skip_bad(root, name, content):
    path = root / {"listops": LISTOPS, "retrieval": PAPERS}[name]
    path.write_bytes(content)
    for skip_bad in (False, True):
        assert failure(name, root, skip_bad=skip_bad).startswith(str(path))


def test_a_part_without_good_reviews_is_an_error(root):
    for path in (root / "aclImdb/test").rglob("*.txt"):
        path.write_bytes(b"\xff")
    assert "test in aclImdb has no valid review" in failure("text", root, skip_bad=True)
    for path in (root / "aclImdb/test").rglob("*.txt"):
        path.unlink()
    assert "test in aclImdb has no valid review" in failure("text", root)


@pytest.mark.parametrize(
    ("name", "path"), [("listops", LISTOPS), ("text", "aclImdb/test"), ("retrieval", PAPERS)]
)
def test_reading_that_is_not_permitted_is_named(unprivileged, monkeypatch, name, path):
    monkeypatch.setenv("LASTAX_CACHE", str(unprivileged / "cache"))
    token_fixtures.main(unprivileged)
    (unprivileged / path).chmod(0)
    message = failure(name, unprivileged)
    assert message.startswith(f"cannot read {unprivileged / path}")
    assert "(Permission denied)" in message


def test_one_file_that_may_not_be_read_can_be_left_out(unprivileged, monkeypatch):
    monkeypatch.setenv("LASTAX_CACHE", str(unprivileged / "cache"))
    token_fixtures.main(unprivileged)
    (unprivileged / REVIEW).chmod(0)
    assert failure("text", unprivileged).startswith(f"cannot read {unprivileged / REVIEW} (Perm")
    assert open_set("text", unprivileged, skip_bad=True).skipped == 1


# Real files


@pytest.fixture(scope="module")
def real():
    """A function: the real data set, if its files are there; prepared once for all tests."""
    named = os.environ.get("LASTAX_DATA")
    opened = {}

    def open_real(name, **options):
        if not named or not DATASETS[name].present(Path(named)):
            pytest.skip(f"LASTAX_DATA names no folder with the files of {name}")
        if name not in opened:
            opened[name] = tempfile.TemporaryDirectory()
        os.environ["LASTAX_CACHE"] = opened[name].name
        return Path(named), open_set(name, Path(named), **options)

    yield open_real
    for folder in opened.values():
        folder.cleanup()


def evaluate(symbols):
    """The value of an expression without parentheses, by a stack."""
    stack = [[]]
    for symbol in symbols:
        if symbol == "]":
            operator, *values = stack.pop()
            middle = sorted(values)[(len(values) - 1) // 2], sorted(values)[len(values) // 2]
            stack[-1].append(
                {
                    "[MIN": min(values),
                    "[MAX": max(values),
                    "[SM": sum(values) % 10,
                    "[MED": sum(middle) // 2,
                }[operator]
            )
        elif symbol.startswith("["):
            stack.append([symbol])
        else:
            stack[-1].append(int(symbol))
    [[value]] = stack
    return value


@pytest.mark.slow
def test_real_listops(real):
    root, data = real("listops")
    for split, name in zip(SPLITS, ("train", "val", "test"), strict=True):
        source = data.sources[split]
        lines = (root / f"listops-1000/basic_{name}.tsv").read_bytes().split(b"\r\n")
        assert lines[0] == b"Source\tTarget"
        assert lines[-1] == b""
        assert len(source) == len(lines) - 2
        for number, line in ((0, lines[1]), (-1, lines[-2])):
            text, value = line.decode().split("\t")
            symbols = text.replace("(", "").replace(")", "").split()
            assert words(data, source[number]) == [*symbols, "<eos>"]
            assert source[number]["label"] == int(value)
        labels, lengths = zip(*((int(r["label"]), int(r["length"])) for r in source), strict=True)
        shares = np.bincount(labels, minlength=10) / len(labels)
        slack = 4 * np.sqrt(0.17 * 0.83 / len(labels))
        np.testing.assert_allclose(shares[[0, 9]], 0.169, atol=slack)
        assert np.all((shares[1:9] > 0.083 - 0.01 - slack) & (shares[1:9] < 0.083 + 0.01 + slack))
        assert min(lengths) > 501
        assert max(lengths) <= 2000
        assert np.mean(lengths) == pytest.approx(1038, abs=4 * 400 / np.sqrt(len(lengths)))
    for record in data.sources["test"]:
        assert evaluate(words(data, record)[:-1]) == record["label"]


@pytest.mark.slow
def test_real_texts(real):
    root, data = real("text", validation="published")
    assert 130 <= len(data.vocabulary) <= 140  # "~135" in the published configurations
    assert data.skipped == 0
    for split in ("train", "test"):
        source = data.sources[split]
        files = review_files(root / "aclImdb", split)
        assert len(source) == len(files) == 25_000
        for number in (0, 12_499, 12_500, -1):
            text = files[number].read_bytes().decode()
            expected = [c if c in data.vocabulary else "<unk>" for c in text[:4095]]
            assert words(data, source[number]) == [*expected, "<eos>"]
        np.testing.assert_array_equal(source.labels[:], [0] * 12_500 + [1] * 12_500)
    train = [path.read_bytes().decode() for path in review_files(root / "aclImdb", "train")]
    assert data.vocabulary == characters(train, 4096, 15)
    _, data = real("text")
    assert [len(data.sources[split]) for split in SPLITS] == [22_500, 2_500, 25_000]
    share = np.mean([record["label"] for record in data.sources["validation"]])
    assert share == pytest.approx(0.5, abs=0.04)


@pytest.mark.slow
def test_real_pairs(real):
    root, data = real("retrieval")
    for split, name in zip(SPLITS, ("train", "eval", "test"), strict=True):
        with (root / f"tsv_data/new_aan_pairs.{name}.tsv").open("rb") as file:
            first = next(file).decode().rstrip("\r\n").split("\t")
            rows = 1 + sum(1 for line in file if line.strip())
        assert len(data.sources[split]) == rows
        record = data.sources[split][0]
        assert record["label"] == float(first[0])
        for x, length, text in zip(record["x"], record["length"], first[3:], strict=True):
            known = [c if c in data.vocabulary else "<unk>" for c in text[:3999]]
            assert [data.vocabulary[token] for token in x[:length]] == [*known, "<eos>"]
