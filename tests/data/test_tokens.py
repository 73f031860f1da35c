"""Vocabularies, token files, tables: held to plain Python and to round trips."""

import collections
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lastax.data import DataError, listops
from lastax.data._folders import data_folder, find, list_folder, need, read_file
from lastax.data._prepared import StoredArray
from lastax.data._skipping import Skipping
from lastax.data._sources import Sequences
from lastax.data._tables import read_rows
from lastax.data._tokens import (
    SPECIALS,
    TokenWriter,
    character_ids,
    character_vocabulary,
    count_characters,
    encode_characters,
    id_type,
    in_groups,
    open_pairs,
    open_texts,
)

from .token_fixtures import expression

TEXTS = st.lists(st.text(max_size=30), max_size=20)


# Characters


@settings(max_examples=200, deadline=None)
@given(texts=TEXTS, length=st.integers(1, 20), minimum=st.integers(1, 4))
def test_a_vocabulary_equals_one_counted_token_by_token(texts, length, minimum):
    counts = collections.Counter(c for text in texts for c in text[: length - 1])
    common = [c for c, n in counts.items() if n >= minimum]
    expected = sorted(common, key=lambda c: (-counts[c], c))
    vocabulary = character_vocabulary(count_characters(texts, length=length), minimum=minimum)
    assert vocabulary == ("<pad>", "<unk>", "<eos>", *expected)


@settings(max_examples=200, deadline=None)
@given(texts=TEXTS, length=st.integers(1, 20), known=st.sets(st.characters(), max_size=40))
def test_texts_come_back_from_their_tokens(texts, length, known):
    vocabulary = (*SPECIALS, *sorted(known))
    tokens, lengths = encode_characters(texts, character_ids(vocabulary), length=length)
    assert tokens.dtype == np.uint8
    parts = np.split(tokens, np.cumsum(lengths)[:-1]) if texts else []
    assert len(tokens) == lengths.sum()
    for text, part in zip(texts, parts, strict=True):
        written = [vocabulary[token] for token in part]
        assert written[-1] == "<eos>"
        expected = [c if c in known else "<unk>" for c in text[: length - 1]]
        assert written[:-1] == expected


def test_equal_counts_come_in_the_order_of_their_code_points():
    counts = count_characters(["bbaz\N{GREEK SMALL LETTER ALPHA}z", "!"], length=100)
    assert character_vocabulary(counts, minimum=1)[3:] == (*"bz!a", "\N{GREEK SMALL LETTER ALPHA}")


@pytest.mark.parametrize(
    ("vocabulary_size", "dtype"),
    [(256, np.uint8), (257, np.uint16), (65536, np.uint16), (65537, np.uint32)],
)
def test_ids_have_the_smallest_type_that_holds_them(vocabulary_size, dtype):
    assert id_type(vocabulary_size) == dtype


def test_groups_are_all_items_in_order():
    assert list(in_groups(iter(range(7)), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(in_groups([], 3)) == []


# ListOps

TREES = st.recursive(
    st.integers(0, 9),
    lambda trees: st.tuples(
        st.sampled_from(["MIN", "MAX", "MED", "SM"]), st.lists(trees, min_size=1, max_size=4)
    ).map(lambda node: (node[0], *node[1])),
    max_leaves=20,
)


def symbols(tree):
    """The tokens of a tree, from the tree."""
    if isinstance(tree, int):
        return [str(tree)]
    return [f"[{tree[0]}", *(token for part in tree[1:] for token in symbols(part)), "]"]


@settings(max_examples=200, deadline=None)
@given(tree=TREES)
def test_an_expression_becomes_its_symbols(tree):
    source = expression(tree)
    written = [listops.VOCABULARY[token] for token in listops.encode(source.encode())]
    assert written == symbols(tree)
    # What the published code does, which calls `]` X.
    published = source.replace("]", "X").replace("(", "").replace(")", "").split()
    assert ["X" if token == "]" else token for token in written] == published


@pytest.mark.parametrize(
    ("source", "odd"),
    [
        ("( ( [MAX 2 ) 12 )", "'12' is not a symbol"),
        ("( ( [FIRST 2 ) 1 )", "'[FIRST' is not a symbol"),
        ("( [MAX2 ) ]", "'[MAX2' is not a symbol"),
        ("[MAX\t2 ]", "is not a symbol"),
        ("1  2", "'' is not a symbol"),
        ("1 \x01 2", r"'\x01' is not a symbol"),
        ("1 é 2", "'é' is not a symbol"),
        ("", "'' is not a symbol"),
    ],
)
def test_errors_name_unknown_symbols(source, odd):
    with pytest.raises(ValueError, match="is not a symbol") as caught:
        listops.encode(source.encode())
    assert odd in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(source=st.text(alphabet="()[]0129MAXINEDSO \x01\x04a", max_size=12))
def test_every_text_is_encoded_as_published_or_refused(source):
    words = source.split(" ")
    known = all(word in ("(", ")", *listops.VOCABULARY[3:]) for word in words)
    if known:
        written = [listops.VOCABULARY[token] for token in listops.encode(source.encode())]
        assert written == [word for word in words if word not in "()"]
    elif source.rstrip(" ") and not source.endswith(" "):
        with pytest.raises(ValueError, match="is not a symbol"):
            listops.encode(source.encode())


# Files of tokens


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_records_are_the_texts_padded(tmp_path_factory, data):
    length, vocabulary_size = data.draw(st.integers(1, 12)), data.draw(st.sampled_from([5, 300]))
    texts = data.draw(
        st.lists(
            st.lists(st.integers(1, vocabulary_size - 1), min_size=1, max_size=length),
            min_size=2,
            max_size=9,
        )
    )
    texts = texts[: len(texts) // 2 * 2]
    folder = tmp_path_factory.mktemp("tokens")
    for split, count in (("texts", len(texts)), ("pairs", len(texts) // 2)):
        labels = list(range(count))
        with TokenWriter(folder, split, vocabulary_size=vocabulary_size) as writer:
            for group in in_groups(texts, 4):
                lengths = np.array([len(text) for text in group])
                done = len(writer)
                part = len(group) * count // len(texts)
                writer.add(np.concatenate(group), lengths, labels[done : done + part])
            assert len(writer) == count
    padded = np.array([text + [0] * (length - len(text)) for text in texts])
    lengths = np.array([len(text) for text in texts])
    singles = open_texts(folder, "texts", vocabulary_size=vocabulary_size, length=length)
    pairs = open_pairs(folder, "pairs", vocabulary_size=vocabulary_size, length=length)
    for number, record in enumerate(singles):
        np.testing.assert_array_equal(record["x"], padded[number])
        assert (record["label"], record["length"]) == (number, lengths[number])
        assert {value.dtype for value in record.values()} == {np.dtype(np.int32)}
        assert {name: value.shape for name, value in record.items()} == {
            "x": (length,),
            "label": (),
            "length": (),
        }
    for number, record in enumerate(pairs):
        both = slice(2 * number, 2 * number + 2)
        np.testing.assert_array_equal(record["x"], padded[both])
        np.testing.assert_array_equal(record["length"], lengths[both])
        assert record["label"] == number
        assert {value.dtype for value in record.values()} == {np.dtype(np.int32)}
    assert (len(singles), len(pairs)) == (len(texts), len(texts) // 2)


@pytest.fixture
def three(tmp_path):
    """A folder with three texts: 3, 3 4 and 3 4 5."""
    with TokenWriter(tmp_path, "train", vocabulary_size=6) as writer:
        writer.add(np.array([3, 3, 4, 3, 4, 5]), np.array([1, 2, 3]), [0, 1, 0])
    return tmp_path


@pytest.mark.parametrize("rows", [range(2, 0, -1), np.array([2, 1])])
def test_a_source_may_have_some_rows_in_any_order(three, rows):
    source = open_texts(three, "train", vocabulary_size=6, length=3, rows=rows)
    assert len(source) == 2
    assert [record["x"].tolist() for record in source] == [[3, 4, 5], [3, 4, 0]]
    assert source[-1]["x"].tolist() == [3, 4, 0]
    for beyond in (2, -3):
        with pytest.raises(IndexError):
            source[beyond]


def test_a_source_is_small_when_pickled_and_the_same_after(three):
    source = open_texts(three, "train", vocabulary_size=6, length=3)
    list(source)
    packed = pickle.dumps(source)
    assert len(packed) < 1000
    again = pickle.loads(packed)
    assert [r["x"].tolist() for r in again] == [r["x"].tolist() for r in source]


def test_ids_beyond_the_vocabulary_are_damage(three):
    source = open_texts(three, "train", vocabulary_size=5, length=3)
    source[1]
    with pytest.raises(DataError, match=f"{three}/train_tokens.npy is damaged at text 2; remove"):
        source[2]


def test_texts_that_are_too_long_are_damage(three):
    with pytest.raises(DataError, match="is damaged at text 2"):
        open_texts(three, "train", vocabulary_size=6, length=2)[2]


def test_files_that_do_not_fit_together_are_damage(three):
    labels = three / "train_labels.npy"
    np.save(labels, np.zeros(2, np.uint8))
    with pytest.raises(DataError, match=f"train in {three} is damaged; remove that folder"):
        open_texts(three, "train", vocabulary_size=6, length=3)


def test_sequences_decode_a_row(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(6, dtype=np.uint8).reshape(3, 2))
    np.save(tmp_path / "labels.npy", np.array([5, 6, 7], np.uint8))
    x, labels = StoredArray(tmp_path / "x.npy"), StoredArray(tmp_path / "labels.npy")
    source = Sequences(x, labels, range(1, 3), halves)
    assert len(source) == 2
    np.testing.assert_array_equal(source[0]["x"], [[1.0], [1.5]])
    assert source[1]["label"] == 7
    assert source[1]["label"].dtype == np.int32
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again[1]["x"], source[1]["x"])


def halves(row):
    return (row[:, None] / 2).astype(np.float32)


# Tables


def rows_of(path, *, skip=False, **options):
    skipping = Skipping(skip)
    options = {"columns": 2, "skipping": skipping, **options}
    return list(read_rows(path, lambda row: (row.number, row.columns), **options)), skipping.count


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_rows_are_numbered_by_line(tmp_path, end, last):
    path = tmp_path / "table.tsv"
    path.write_bytes(end.join(["head", "a\tb", "", '"c\t"', *[""] * last]).encode())
    rows, skipped = rows_of(path, header=b"head")
    assert rows == [(2, [b"a", b"b"]), (4, [b'"c', b'"'])]
    assert skipped == 0


@pytest.mark.parametrize(("row", "count"), [("a", 1), ("a\tb\tc", 3), ("a b", 1)])
def test_a_row_of_other_columns_is_named_or_left_out(tmp_path, row, count):
    path = tmp_path / "table.tsv"
    path.write_text(f"a\tb\n{row}\nc\td\n")
    with pytest.raises(DataError) as caught:
        rows_of(path)
    assert str(caught.value).startswith(f"{path}, row 2: {count} columns instead of 2; restore")
    assert "--skip-bad" in str(caught.value)
    rows, skipped = rows_of(path, skip=True)
    assert [number for number, _ in rows] == [1, 3]
    assert skipped == 1


@pytest.mark.parametrize("content", [b"", b"\n\r\n", b"head\n"])
def test_a_table_without_rows_is_an_error_even_if_bad_rows_may_be_skipped(tmp_path, content):
    path = tmp_path / "table.tsv"
    path.write_bytes(content)
    header = b"head" if content == b"head\n" else None
    with pytest.raises(DataError, match=f"{path} has no rows"):
        rows_of(path, header=header, skip=True)


def test_another_header_is_named(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_bytes(b"\x89PNG\n\0\0")
    with pytest.raises(DataError, match=r"table.tsv begins with '\\\\x89PNG' instead of 'head'"):
        rows_of(path, header=b"head", skip=True)


def test_a_file_without_line_ends_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("lastax.data._tables.LONGEST", 1000)
    path = tmp_path / "table.tsv"
    path.write_bytes(b"a\tb\n" + bytes(5000))
    with pytest.raises(DataError, match="row 2 has no end"):
        rows_of(path, skip=True)


def test_a_file_that_is_a_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=f"cannot read {tmp_path}"):
        rows_of(tmp_path)


@pytest.mark.parametrize(("text", "label"), [(b"1", 1), (b"1.0", 1), (b"0.0", 0), (b" 2 ", 2)])
def test_labels_are_integers_however_they_are_written(tmp_path, text, label):
    path = tmp_path / "table.tsv"
    path.write_bytes(text + b"\tb\n")
    parse = lambda row: row.label(0, classes=3)  # noqa: E731
    assert list(read_rows(path, parse, columns=2, skipping=Skipping(False))) == [label]


@pytest.mark.parametrize("text", [b"", b"3", b"-1", b"1.5", b"nan", b"inf", b"one", b"\xff"])
def test_other_labels_are_named(tmp_path, text):
    path = tmp_path / "table.tsv"
    path.write_bytes(text + b"\tb\n")
    parse = lambda row: row.label(0, classes=3)  # noqa: E731
    with pytest.raises(DataError, match=r"row 1: label .* is not in 0\.\.2") as caught:
        list(read_rows(path, parse, columns=2, skipping=Skipping(False)))
    assert "\n" not in str(caught.value)


# Folders


def test_the_root_is_named_or_from_the_environment_or_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LASTAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LASTAX_DATA", raising=False)
    assert data_folder() == tmp_path / "cache/data"
    monkeypatch.setenv("LASTAX_DATA", str(tmp_path / "sets"))
    assert data_folder() == tmp_path / "sets"
    assert data_folder(tmp_path) == tmp_path


@pytest.mark.parametrize("layer", ["", "lra_release", "lra_release/lra_release"])
def test_sets_are_found_however_their_archive_nests_them(tmp_path, layer):
    (tmp_path / layer / "two").mkdir(parents=True)
    assert find(tmp_path, "one", "two") == tmp_path / layer / "two"
    assert find(tmp_path, "one") is None
    with pytest.raises(DataError, match=f"not found: {tmp_path}/one; unpack it"):
        need(tmp_path, "one", hint="unpack it")


def test_errors_name_what_cannot_be_read(tmp_path):
    for read in (read_file, list_folder):
        with pytest.raises(DataError, match=f"cannot read {tmp_path}/gone"):
            read(tmp_path / "gone")
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "c.md").write_text("c")
    (tmp_path / "._a.txt").write_text("as macOS adds to each copied file")
    assert list_folder(tmp_path, ".txt") == [tmp_path / "a.txt", tmp_path / "b.txt"]
