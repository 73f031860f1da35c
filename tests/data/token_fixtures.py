"""Make the small token data sets below `fixtures/`, each in the layout of the official files.

    python tests/data/token_fixtures.py [FOLDER]

`listops-1000/` (CRLF line ends, a header), `aclImdb/` (one file a review) and `tsv_data/` (five
columns, no header, quotation marks that stand for themselves).
"""

import sys
from pathlib import Path

FIXTURES = Path(__file__).with_name("fixtures")

# Expressions with values worked out by hand.
EXPRESSIONS = {
    "train": (
        (("MAX", 2, 9), 9),
        (("MIN", 4, ("SM", 8, 7)), 4),
        (("SM", 9, 9, 9), 7),
        (("MED", 1, 4, 8, ("MAX", 0, 3)), 3),  # of 3.5, the middle of 3 and 4
        (("MED", 6, 2, 7), 6),
        (("MIN", ("MIN", 5, 6), ("MAX", 5, 6)), 5),
        (("SM", ("MED", 0, 1), ("MED", 8, 9)), 8),
        (7, 7),
        (("MAX", ("MAX", ("MAX", 1, 0), 2), 1), 2),
        (("SM", 1, 2, 3, 4, 5, 6, 7, 8, 9, 0), 5),
    ),
    "val": ((("MED", 9, 0), 4), (("SM", 5, 5), 0), (("MIN", 8, 1), 1)),
    "test": ((("MAX", 3, ("MIN", 6, 9)), 6), (("MED", 2, 2, 3, 3), 2), (0, 0), (("SM", 4), 4)),
}

REVIEWS = {
    "neg": (
        "This was a bad film.<br /><br /><br /><br />I left early, as did my café au lait.",
        "Nothing here is new. The script is a list of lines that other films threw out.",
        "A tired, noisy and endless chase - 2 hours of it!",
    ),
    "pos": (
        "A quiet film that I liked from the first minute to the last.",
        "The best thing since \N{GREEK CAPITAL LETTER PSI}ycho; see it twice.",
        "Funny, tender and short: what more can one ask of an evening?",
    ),
}

PAPERS = (
    'We parse "as if" every sentence were its own tree.',
    '"Quoted from its first letter, and never closed.',
    "A transducer for na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve morphology; see section 3.",
    "Statistical alignment of words, \N{GREEK SMALL LETTER ALPHA} = 0.05, in 12 languages.",
    "",
    "Backing-off, revisited.",
)


def expression(tree: int | tuple) -> str:
    """A tree as the official generator prints it: pairs, nested to the left."""
    if isinstance(tree, int):
        return str(tree)
    operator, *arguments = tree
    text = f"[{operator}"
    for argument in arguments:
        text = f"( {text} {expression(argument)} )"
    return f"( {text} ] )"


def write(path: Path, text: str) -> None:
    """Write `text` as it is, with the line ends that it has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def write_listops(root: Path) -> None:
    """`listops-1000/`."""
    for split, rows in EXPRESSIONS.items():
        lines = [f"{expression(tree)}\t{value}\r\n" for tree, value in rows]
        write(root / f"listops-1000/basic_{split}.tsv", "".join(["Source\tTarget\r\n", *lines]))


def write_reviews(root: Path) -> None:
    """`aclImdb/`: twelve training reviews and three test reviews a label."""
    for split, count in {"train": 12, "test": 3}.items():
        for label, texts in REVIEWS.items():
            for number in range(count):
                rating = {"neg": 1, "pos": 7}[label] + number % 4
                text = texts[number % 3] + " Again!" * (number // 3)
                write(root / f"aclImdb/{split}/{label}/{number}_{rating}.txt", text)


def write_papers(root: Path) -> None:
    """`tsv_data/`."""
    for split, count in {"train": 8, "eval": 3, "test": 4}.items():
        lines = []
        for number in range(count):
            one, other = PAPERS[number % 6], PAPERS[(number + 1 + number % 3) % 6]
            label = f"{number % 2:.1f}"
            lines.append("\t".join([label, f"W0{number}", f"P1{number}", one, other]) + "\n")
        write(root / f"tsv_data/new_aan_pairs.{split}.tsv", "".join(lines))


def main(root: Path) -> None:
    """Write all of them."""
    for write_set in (write_listops, write_reviews, write_papers):
        write_set(root)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FIXTURES)
