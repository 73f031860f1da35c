"""Read golden files.

All cases, sizes, lengths and ratios come from the files, so that another folder can be tested.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FILES = Path(__file__).parent / "files"


@dataclasses.dataclass(frozen=True)
class Declaration:
    """The entries of one kind of golden files that a test module uses.

    Attributes:
        consumed: regular expressions of the array names, without the case, that tests compare.
        unconsumed: regular expressions of the other array names, with the reason.
        facts: keys of the JSON file.
        options: keys of the cases in the JSON file.
    """

    consumed: tuple[str, ...]
    unconsumed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    facts: tuple[str, ...] = ("cases",)
    options: tuple[str, ...] = ()

    def consumes(self, array: str) -> bool:
        return _matches(self.consumed, array)

    def knows(self, array: str) -> bool:
        return self.consumes(array) or _matches(self.unconsumed, array)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """The options and arrays of one case. Only declared arrays can be read."""

    name: str
    options: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    declaration: Declaration
    prefix: str = ""

    def __getitem__(self, array: str) -> np.ndarray:
        full = self.prefix + array
        assert self.declaration.consumes(full), f"{full} is read but not declared as consumed"
        return self.arrays[full]

    def __contains__(self, array: str) -> bool:
        return self.prefix + array in self.arrays

    def __iter__(self) -> Iterator[str]:
        start = len(self.prefix)
        return (name[start:] for name in self.arrays if name.startswith(self.prefix))

    def numbers(self, pattern: str) -> list[int]:
        """Numbers in array names: the group of `pattern`, from all names that match in full."""
        matches = (re.fullmatch(pattern, name) for name in self)
        return sorted({int(match[1]) for match in matches if match})

    def below(self, prefix: str) -> "Case":
        return dataclasses.replace(self, prefix=f"{self.prefix}{prefix}/")


@dataclasses.dataclass(frozen=True, eq=False)
class Kind:
    """All cases of one kind: the contents of a JSON file and of an `.npz` file."""

    name: str
    facts: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    @property
    def stored(self) -> list[str]:
        """Names of the cases that have arrays."""
        return list(dict.fromkeys(name.split("/", 1)[0] for name in self.arrays))

    def case(self, name: str, options: Mapping[str, Any], declaration: Declaration) -> Case:
        own = {n[len(name) + 1 :]: a for n, a in self.arrays.items() if n.startswith(name + "/")}
        return Case(name, options, own, declaration)

    def listed(self, declaration: Declaration, fact: str = "cases") -> list[Case]:
        return [self.case(o["name"], o, declaration) for o in self.facts[fact]]


@functools.cache
def read_kind(folder: Path, name: str) -> Kind:
    facts = json.loads((folder / f"{name}.json").read_text())
    with np.load(folder / f"{name}.npz") as arrays:
        return Kind(name, facts, dict(arrays))


def assert_all_known(kind: Kind, cases: Iterable[Case], declaration: Declaration) -> None:
    """Check that tests use everything in the files, and that all listed cases are stored."""
    always = {"set", "truth_tools", "reference_tools"}
    unknown_facts = set(kind.facts) - always - set(declaration.facts)
    assert not unknown_facts, f"{kind.name}.json: entries that no test knows: {unknown_facts}"
    cases = {case.name: case for case in cases}
    assert set(kind.stored) == set(cases), f"{kind.name}: cases stored and listed differ"
    for case in cases.values():
        options = set(case.options) - {"name"} - set(declaration.options)
        assert not options, f"{kind.name}/{case.name}: options that no test knows: {options}"
    unknown = sorted(
        f"{case.name}/{array}"
        for case in cases.values()
        for array in case.arrays
        if not declaration.knows(array)
    )
    assert not unknown, f"{kind.name}: arrays that no test knows: {unknown}"


def _matches(patterns: Iterable[str], array: str) -> bool:
    return any(re.fullmatch(pattern, array) for pattern in patterns)
