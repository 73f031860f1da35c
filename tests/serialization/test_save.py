"""Saving and loading: the same tree comes back, with and without a template."""

import dataclasses
import json
import os
import re
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import lastax
from lastax.serialization import RunError, folder_written_at_once, write_atomically


def network(**settings):
    config = lastax.ModelConfig(layers=2, channels=4, states=4, **settings)
    return lastax.build_network(config, input_size=3, classes=2, key=jax.random.key(0))


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert jnp.asarray(a).dtype == jnp.asarray(b).dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"layer": "s4d", "discretization": "bilinear", "train_b": False},
        {"layer": "lru", "bidirectional": False, "norm": "layer", "prenorm": False},
        {"head": "retrieval", "activation": "full_glu", "pooling": "last"}
        | {"gelu": "exact", "norm_epsilon": 1e-3},
    ],
    ids=["s5", "s4d", "lru", "retrieval"],
)
def test_networks_need_no_template(tmp_path, settings):
    model = lastax.prune(network(**settings), ratio=0.5)
    lastax.save(tmp_path / "model", model)
    loaded = lastax.load(tmp_path / "model")
    assert_same(model, loaded)
    # Static fields came back too: the compiled function is the same.
    assert eqx.tree_equal(
        eqx.filter(model, eqx.is_array, inverse=True),
        eqx.filter(loaded, eqx.is_array, inverse=True),
    )


def test_fields_that_came_later_have_their_defaults(tmp_path):
    model = network()
    lastax.save(tmp_path / "model", model)
    path = tmp_path / "model" / "structure.json"
    text = path.read_text()
    structure = json.loads(text)
    encoder = structure["fields"]["encoder"]["fields"]
    assert encoder.pop("tokens") is False
    path.write_text(json.dumps(structure))
    assert_same(model, lastax.load(tmp_path / "model"))


class Own(eqx.Module):
    layer: lastax.S5
    mix: jax.Array
    scale: jax.Array
    width: int = eqx.field(static=True)


def own_model(key):
    return Own(
        lastax.S5.initialize(channels=2, states=4, key=key),
        jnp.asarray(np.arange(4) * (1 + 2j), jnp.complex64),
        jnp.asarray([0.5, 1.5], jnp.bfloat16),
        3,
    )


def test_other_trees_need_a_template(tmp_path):
    model = own_model(jax.random.key(1))
    parameters = eqx.filter(model.layer, eqx.is_inexact_array)
    state = (model, optax.adam(1e-3).init(parameters))
    lastax.save(tmp_path, state)
    like = (own_model(jax.random.key(2)), optax.adam(1e-3).init(parameters))
    assert_same(state, lastax.load(tmp_path, like=like))
    # Shapes are enough.
    shapes = eqx.filter_eval_shape(own_model, jax.random.key(0))
    assert_same(model, lastax.load(tmp_path, like=(shapes, like[1]))[0])
    with pytest.raises(RunError, match="pass like="):
        lastax.load(tmp_path)


def test_values_keep_their_precision(tmp_path):
    tree = {
        "double": np.array([1 / 3, 1e300]),
        "complex": np.array([1 / 3 + 2j / 7]),
        "half": np.array([1.5, -2.25], ml_dtypes.bfloat16),
        "integers": np.array([2**40 + 1]),
    }
    with jax.enable_x64(True):
        lastax.save(tmp_path, tree)
        assert_same(tree, lastax.load(tmp_path))


def test_a_new_model_replaces_an_old_one(tmp_path):
    lastax.save(tmp_path, network())
    lastax.save(tmp_path, own_model(jax.random.key(0)))
    assert not (tmp_path / "structure.json").exists()
    small = lastax.prune(network(), states=3)
    lastax.save(tmp_path, small)
    assert_same(small, lastax.load(tmp_path))


def test_errors_say_what_is_wrong(tmp_path):
    with pytest.raises(RunError, match=r"no model in .*nowhere"):
        lastax.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="contains no array"):
        lastax.save(tmp_path / "empty", {"a": 1})
    with pytest.raises(ValueError, match=r"jax\.random\.key_data"):
        lastax.save(tmp_path / "key", {"key": jax.random.key(0)})
    assert not (tmp_path / "empty").exists()
    model = network()
    lastax.save(tmp_path, model)
    other = lastax.prune(model, ratio=0.5)
    with pytest.raises(RunError, match=r"should be float32\["):
        lastax.load(tmp_path, like=other)
    (tmp_path / "structure.json").write_text('{"module": "Popen", "fields": {}}')
    with pytest.raises(RunError, match="unknown structure"):
        lastax.load(tmp_path)


def test_a_structure_with_other_fields_is_rejected(tmp_path):
    lastax.save(tmp_path, network())
    path = tmp_path / "structure.json"
    structure = json.loads(path.read_text())
    structure["fields"]["head"]["fields"]["extra"] = 1
    path.write_text(json.dumps(structure))
    with pytest.raises(RunError, match="Linear has fields"):
        lastax.load(tmp_path)


def test_fields_that_an_older_version_did_not_have_have_their_defaults(tmp_path):
    model = network()
    lastax.save(tmp_path, model)
    path = tmp_path / "structure.json"
    text = path.read_text()
    older = re.sub(r',\s*"gelu": "tanh"', "", text)
    assert older != text
    path.write_text(older)
    assert_same(lastax.load(tmp_path), model)
    # Fields without a default are still needed.
    path.write_text(re.sub(r',\s*"activation": "half_glu1"', "", text))
    with pytest.raises(RunError, match="Gate has fields"):
        lastax.load(tmp_path)


def test_a_network_with_a_layer_of_ones_own_has_no_structure(tmp_path):
    class Scaled(eqx.Module):
        inner: lastax.S5

        def system(self, step_rescale=1.0):
            return self.inner.system(step_rescale)

        def __call__(self, u, *, step_rescale=1.0):
            return self.inner(u, step_rescale=step_rescale)

        def keep(self, mask):
            return Scaled(self.inner.keep(mask))

    model = network()
    block = dataclasses.replace(
        model.encoder.blocks[0], layer=Scaled(model.encoder.blocks[0].layer)
    )
    mixed = eqx.tree_at(lambda m: m.encoder.blocks[0], model, block)
    lastax.save(tmp_path, mixed)
    assert_same(mixed, lastax.load(tmp_path, like=mixed))


def test_folders_may_be_strings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree = {"a": jnp.arange(3)}
    lastax.save("model", tree)
    assert_same(tree, lastax.load("model"))
    with lastax.serialization.folder_written_at_once("runs/one") as folder:
        lastax.serialization.write_atomically(str(folder / "file"), b"content")
    lastax.training.save_results("runs/one", {"diverged": "reason"})
    assert lastax.training.load_results("runs/one") == {"diverged": "reason"}
    assert lastax.training.failure_reason("runs/one") == "reason"
    assert lastax.training.find_runs("runs") == []
    assert lastax.experiments.read_cells("runs") == []
    with pytest.raises(RunError, match="no run at runs: there is no"):
        lastax.training.load_run("runs")


def test_a_pruned_model_is_restored_from_its_masks(tmp_path):
    model = own_model(jax.random.key(1))
    small = lastax.keep_states(model, [np.array([True, False, True, True])])
    lastax.save(tmp_path, small)
    whole = eqx.filter_eval_shape(own_model, jax.random.key(0))
    like = lastax.keep_states(whole, [np.array([True, False, True, True])])
    assert_same(small, lastax.load(tmp_path, like=like))


def test_arrays_of_the_same_name_are_refused(tmp_path):
    tree = {"a.b": jnp.ones(2), "a": {"b": jnp.zeros(2)}}
    with pytest.raises(ValueError, match=r"two arrays have the name a\.b"):
        lastax.save(tmp_path / "model", tree)
    assert not (tmp_path / "model").exists()


def test_named_tuples_need_a_template(tmp_path):
    model = network()
    tree = (model, optax.adam(1e-3).init(eqx.filter(model, eqx.is_array)))
    lastax.save(tmp_path / "both", tree)
    with pytest.raises(RunError, match="arrays without a structure; pass like="):
        lastax.load(tmp_path / "both")
    assert_same(lastax.load(tmp_path / "both", like=tree), tree)


def test_infinite_parts_of_complex_numbers_are_kept(tmp_path):
    values = np.array([complex(1, np.inf), complex(np.inf, 2), 3 - 4j], np.complex64)
    lastax.save(tmp_path / "model", {"a": values})
    np.testing.assert_array_equal(np.asarray(lastax.load(tmp_path / "model")["a"]), values)


@pytest.mark.parametrize("moment", [KeyboardInterrupt, OSError("full")])
def test_an_old_folder_survives_a_failed_replacement(tmp_path, monkeypatch, moment):
    target = tmp_path / "run"
    target.mkdir()
    (target / "old").touch()
    rename = Path.rename

    def fail(path, other):
        if path.name == "new":
            raise moment
        return rename(path, other)

    monkeypatch.setattr(Path, "rename", fail)
    with (
        pytest.raises((KeyboardInterrupt, RunError)),
        folder_written_at_once(target, replace=True) as fresh,
    ):
        (fresh / "new").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert [path.name for path in target.iterdir()] == ["old"]


def test_a_file_is_written_where_a_link_points(tmp_path):
    target, link = tmp_path / "real.html", tmp_path / "link.html"
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to(target.name)
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.html", "real.html"]


def test_a_new_file_has_the_permissions_of_the_user(tmp_path):
    before = os.umask(0o077)
    try:
        write_atomically(tmp_path / "new", b"content")
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_a_pipe_stays_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomically(tmp_path / "pipe", b"content")
        assert os.read(reader, 100) == b"content"
    finally:
        os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
