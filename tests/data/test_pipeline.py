"""Properties of the pipeline, each on a source whose records say their own number."""

import contextlib
import itertools
import json
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lastax.data import batches_per_epoch, evaluation_batches, training_batches


def numbered(count):
    """A source: record k has x filled with k, and label k."""
    return [{"x": np.full((2, 3), k, np.float32), "label": np.int32(k)} for k in range(count)]


def noisy(example, rng):
    return {**example, "x": example["x"] + rng.random(dtype=np.float32)}


def take(batches, count):
    return list(itertools.islice(batches, count))


def labels(batches):
    return np.concatenate([batch["label"] for batch in batches]).tolist()


def assert_equal(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@contextlib.contextmanager
def training_batches_of(source, **options):
    """`training_batches`, closed at the end of the block: no thread outlives its test.

    Closing lets the threads finish the batches they are reading. They draw from `random` for
    beartype's checks, which `hypothesis` forbids while it makes the next example. Where processes
    read there is nothing to wait for; Grain keeps threads of its own for their memory.
    """
    before = set(threading.enumerate())
    with contextlib.closing(training_batches(source, **options)) as batches:
        yield batches
    for thread in set() if options.get("workers") else set(threading.enumerate()) - before:
        thread.join(timeout=60)
        assert not thread.is_alive()


def first(count, source, **options):
    with training_batches_of(source, **options) as batches:
        return take(batches, count)


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 12),
    seed=st.sampled_from([0, 1, 2**32 - 1]),
)
def test_an_epoch_is_batches_of_distinct_records(count, batch_size, seed):
    source = numbered(count)
    per_epoch = batches_per_epoch(source, batch_size)
    assert per_epoch == count // batch_size
    if per_epoch == 0:
        return
    with training_batches_of(source, batch_size=batch_size, seed=seed) as batches:
        for _ in range(3):
            epoch = labels(take(batches, per_epoch))
            assert len(set(epoch)) == len(epoch) == per_epoch * batch_size
            assert set(epoch) <= set(range(count))


def test_batches_have_the_shapes_and_types_of_their_records():
    [batch] = first(1, numbered(10), batch_size=4, seed=0)
    assert batch["x"].shape == (4, 2, 3)
    assert batch["x"].dtype == np.float32
    assert batch["label"].shape == (4,)
    assert batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["x"][:, 0, 0], batch["label"])


def test_each_epoch_and_each_seed_has_its_own_order():
    source = numbered(32)
    orders = [
        tuple(labels(first(24, source, batch_size=4, seed=seed)[start : start + 8]))
        for seed in (0, 1, 2)
        for start in (0, 8, 16)
    ]
    assert len(set(orders)) == 9  # also: epoch 1 of seed 0 is not epoch 0 of seed 1


def test_omitted_records_differ_between_epochs():
    seen = set(labels(first(20, numbered(7), batch_size=4, seed=0)))
    assert seen == set(range(7))


def test_augmentation_depends_only_on_seed_epoch_and_record():
    source = numbered(12)
    noise = {}
    for seed, batch_size in ((0, 4), (0, 3), (1, 4)):
        per_epoch = 12 // batch_size
        options = {"batch_size": batch_size, "seed": seed, "augment": noisy}
        for number, batch in enumerate(first(3 * per_epoch, source, **options)):
            for x, label in zip(batch["x"], batch["label"], strict=True):
                key = seed, number // per_epoch, int(label)
                assert noise.setdefault(key, x[0, 0]) == x[0, 0]  # whatever the batch size
    assert len({round(float(value) % 1, 5) for value in noise.values()}) == len(noise) == 72


def test_augmentation_leaves_the_source_as_it_is():
    source = numbered(6)
    first(5, source, batch_size=2, seed=0, augment=noisy)
    assert_equal(source, numbered(6))


@pytest.mark.parametrize("stop", [0, 3, 5, 6, 17])  # 5 batches an epoch
def test_a_state_continues_with_the_same_batches(stop):
    options = {"batch_size": 4, "seed": 3, "augment": noisy}
    whole = first(25, numbered(22), **options)
    with training_batches_of(numbered(22), **options) as batches:
        assert_equal(take(batches, stop), whole[:stop])
        state = json.loads(json.dumps(batches.get_state()))
        take(batches, 2)
        batches.set_state(state)  # back, in the same iterator
        assert batches.get_state() == state
        assert_equal(take(batches, 3), whole[stop : stop + 3])
    with training_batches_of(numbered(22), **options) as batches:
        batches.set_state(state)  # on, in a new one
        assert_equal(take(batches, 8), whole[stop : stop + 8])


def test_a_state_of_other_batches_is_refused():
    with training_batches_of(numbered(22), batch_size=4, seed=3) as batches:
        state = batches.get_state()
    for change in ({"batch_size": 2, "seed": 3}, {"batch_size": 4, "seed": 4}):
        with (
            training_batches_of(numbered(22), **change) as batches,
            pytest.raises(ValueError, match="same data and settings"),
        ):
            batches.set_state(state)


@pytest.mark.parametrize("shards", [1, 2, 3, 6])
def test_shards_one_after_the_other_are_the_whole_batch(shards):
    options = {"batch_size": 6, "seed": 5, "augment": noisy}
    whole = first(9, numbered(20), **options)
    parts = [
        first(9, numbered(20), shard_index=index, shard_count=shards, **options)
        for index in range(shards)
    ]
    for number, batch in enumerate(whole):
        for name in batch:
            joined = np.concatenate([part[number][name] for part in parts])
            np.testing.assert_array_equal(joined, batch[name])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_change_nothing(workers):
    from lastax.data.speech import augment  # workers must be able to import what they run

    source = [{"x": np.ones((30, 4), np.float32) * k, "label": np.int32(k)} for k in range(11)]
    options = {"batch_size": 4, "seed": 1, "augment": augment}
    whole = first(12, source, **options)
    with training_batches_of(source, workers=workers, **options) as batches:
        assert_equal(take(batches, 5), whole[:5])
        # Not in shared memory, of which Python warns if it outlives the program.
        assert {type(value) for value in next(batches).values()} == {np.ndarray}
        batches.set_state({**batches.get_state(), "next_batch": 5})
        state = batches.get_state()
        assert_equal(take(batches, 2), whole[5:7])
        batches.set_state(state)
        assert_equal(take(batches, 3), whole[5:8])
    with training_batches_of(source, **options) as batches:
        batches.set_state(state)  # a state moves between numbers of workers
        assert_equal(take(batches, 4), whole[5:9])


@settings(max_examples=40, deadline=None)
@given(count=st.integers(0, 30), part=st.integers(1, 4), shards=st.integers(1, 3))
def test_evaluation_sees_every_record_once_in_one_shape(count, part, shards):
    source, batch_size = numbered(count), part * shards
    passes = [
        list(
            evaluation_batches(source, batch_size=batch_size, shard_index=index, shard_count=shards)
        )
        for index in range(shards)
    ]
    assert {len(batches) for batches in passes} == {-(-count // batch_size)}
    seen = []
    for batches in zip(*passes, strict=True):
        for batch in batches:
            assert batch["x"].shape == (part, 2, 3)
            assert batch["weight"].dtype == np.float32
            assert set(batch["weight"].tolist()) <= {0.0, 1.0}
            np.testing.assert_array_equal(batch["label"][batch["weight"] == 0], count - 1)
            seen += batch["label"][batch["weight"] == 1].tolist()
    assert seen == list(range(count))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 11}, "batch_size is 11, but there are 10 records"),
        ({"batch_size": 0}, "batch_size must be .*; got 0"),
        ({"batch_size": 4, "seed": -1}, "seed must be in .*; got -1"),
        ({"batch_size": 4, "workers": -1}, "workers must be .*; got -1"),
        ({"batch_size": 4, "shard_count": 3}, "multiple of shard_count 3"),
        ({"batch_size": 4, "shard_index": 2, "shard_count": 2}, "shard_index must be in .*; got 2"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        training_batches(numbered(10), **{"seed": 0, **options})


def test_records_that_disagree_are_named():
    source = [*numbered(3), {"x": np.zeros((5, 3), np.float32), "label": np.int32(3)}]
    with (
        training_batches_of(source, batch_size=4, seed=0) as batches,
        pytest.raises(ValueError, match="records of a batch must have equal shapes"),
    ):
        next(batches)


def test_an_error_in_a_record_reaches_the_caller():
    def failing(example, rng):
        raise RuntimeError("no such sound")

    with (
        training_batches_of(numbered(4), batch_size=2, seed=0, augment=failing) as batches,
        pytest.raises(RuntimeError, match="no such sound"),
    ):
        next(batches)
