"""What a process says if another one has other versions, settings or data."""

import json

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from lastax._errors import RunError
from lastax.training._agreement import require_agreement, require_success


@pytest.mark.parametrize(
    ("own", "other", "words"),
    [
        ({"a flag": 1}, {"a flag": 1}, None),
        ({"the version of": {"jax": "1.9"}}, {"the version of": {"jax": "1.10"}},
         "the version of jax: 1.9 and 1.10;"),
        ({"the version of": {}}, {"the version of": {"grain": "2"}},
         "the version of grain: missing and 2;"),
        ({"the setting": {"training": {"epochs": 3}}}, {"the setting": {"training": {"epochs": 4}}},
         r"the setting training.epochs: 3 and 4;"),
        ({"the data,": {"words": ["é"]}}, {"the data,": {"words": ["é" * 99]}},
         r"the data, words: \['é'\] and \['é{58}...;"),
    ],
)  # fmt: skip
def test_the_first_difference_is_named_with_both_values(monkeypatch, own, other, words):
    texts = [json.dumps(values).encode() for values in (own, other)]

    def gather(array):
        if not array.ndim:
            return np.array([array, len(texts[1])])
        return np.stack([array, np.frombuffer(texts[1].ljust(len(array)), np.uint8)])

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "process_allgather", gather)
    if words is None:
        require_agreement(own)
    else:
        with pytest.raises(RunError, match=f"process 0 of 2: processes 0 and 1 differ in {words}"):
            require_agreement(own)


@pytest.mark.parametrize("own", [None, "the folder is locked"])
def test_a_failure_of_one_process_ends_all(monkeypatch, own):
    other = json.dumps({"failure": "no space"}).encode()

    def gather(array):
        if not array.ndim:
            return np.array([array, len(other)])
        return np.stack([array, np.frombuffer(other.ljust(len(array)), np.uint8)])

    failure = None if own is None else ValueError(own)
    if own is None:
        require_success(None)
    else:
        with pytest.raises(ValueError, match=own):
            require_success(failure)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "process_allgather", gather)
    with pytest.raises((RunError, ValueError), match=own or "no space"):
        require_success(failure)
