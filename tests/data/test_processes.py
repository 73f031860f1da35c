"""Work over processes: in order, not too far ahead, ended when nobody wants more."""

import contextlib
import itertools
import math
import operator
import os

import pytest

from lastax.data import DataError
from lastax.data._processes import ordered_map


def take(results, count):
    return list(itertools.islice(results, count))


@pytest.mark.parametrize("workers", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_results_come_in_order_and_work_is_not_done_far_ahead(workers):
    taken = []

    def items():
        for item in itertools.count():
            taken.append(item)
            # The first of each four takes long.
            yield 20_000 if item % 4 == 0 else item

    with contextlib.closing(ordered_map(math.factorial, items(), workers=workers)) as results:
        found = take(results, 12)
    assert found[1:4] + found[5:8] == [1, 2, 6, 120, 720, 5040]
    assert found[8] == found[0] == math.factorial(20_000)
    assert len(taken) <= 12 + 3 * workers


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_results_end_with_the_items(workers):
    assert list(ordered_map(operator.neg, [], workers=workers)) == []
    assert list(ordered_map(operator.neg, range(9), workers=workers)) == [-k for k in range(9)]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_error_of_the_work_is_raised_in_its_place(workers):
    results = ordered_map(math.sqrt, [4.0, -1.0, 9.0], workers=workers)
    assert next(results) == 2
    with pytest.raises(ValueError, match=r"math domain error|expected a nonnegative"):
        next(results)


@pytest.mark.slow
def test_a_killed_worker_is_one_line():
    with pytest.raises(DataError, match=r"a worker process was killed.*use fewer workers"):
        list(ordered_map(os._exit, [1, 2, 3], workers=2))


def test_there_must_be_a_worker():
    with pytest.raises(DataError, match="workers must be 1 or more; got 0"):
        next(ordered_map(operator.neg, [1], workers=0))
