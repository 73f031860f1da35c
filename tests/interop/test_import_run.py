"""Foreign checkpoints as runs: every command takes them like trained ones."""

import json
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lastax
from lastax._errors import RunError
from lastax.cmd.main import main
from lastax.interop import export_run, foreign_data_config, import_run, open_contents, read
from lastax.plots import report_page

from . import writers


@pytest.fixture
def data(tmp_path):
    """Sequences of two values per step, in five classes."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 12, 2)).astype(np.float32)
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=np.arange(40) % 5)
    return str(tmp_path / "mine.npz")


def opened(imported, data):
    config = foreign_data_config(imported, "arrays", data=data)
    return config, lastax.data.open_data(config)


def stored(tmp_path, tree, name="net.msgpack"):
    path = tmp_path / name
    path.write_bytes(writers.flax_msgpack(tree))
    return path


def test_a_run_holds_the_foreign_network_and_goes_back(tmp_path, data):
    tree = writers.s5_network(layers=1) | {"note": "mine"}
    file = stored(tmp_path, tree)
    imported = read(file, gelu="tanh")
    config, source = opened(imported, data)
    run = import_run(imported, tmp_path / "run", source, task="arrays", data_config=config)
    loaded, model = lastax.training.load_run(run.folder)
    assert loaded == run.config
    assert loaded.imported["options"]["gelu"] == "tanh"
    assert jax.tree.structure(model) == jax.tree.structure(imported.model)
    for one, other in zip(jax.tree.leaves(model), jax.tree.leaves(imported.model), strict=True):
        np.testing.assert_array_equal(one, other)
    assert run.results["test"]["examples"] == source.records("test")
    # Without pruning, the exported file is the imported one.
    assert export_run(run.folder, tmp_path / "again") == ()
    before, after = open_contents(file), open_contents(tmp_path / "again")
    assert after.values == before.values
    assert after.arrays.keys() == before.arrays.keys()
    for name, array in before.arrays.items():
        np.testing.assert_allclose(after.arrays[name], array, rtol=1e-6)
    # A second call takes what is there, but never another file.
    again = {"task": "arrays", "data_config": config}
    assert import_run(imported, run.folder, source, reuse=True, **again).results == run.results
    file.write_bytes(writers.flax_msgpack(tree | {"note": "other"}))
    with pytest.raises(RunError, match="already exists"):
        import_run(read(file, gelu="tanh"), run.folder, source, reuse=True, **again)
    (note,) = export_run(run.folder, tmp_path / "again")
    assert "left out: it moved or changed" in note


def test_a_run_of_an_equinox_file_is_exported_without_its_template(tmp_path, data):
    tree = jax.tree.map(jnp.asarray, writers.s5_network(layers=1))
    eqx.tree_serialise_leaves(tmp_path / "net.eqx", tree)
    imported = read(tmp_path / "net.eqx", template=tree)
    config, source = opened(imported, data)
    run = import_run(imported, tmp_path / "run", source, task="arrays", data_config=config)
    (note,) = export_run(run.folder, tmp_path / "again")
    assert "left out: read: " in note
    assert "pass template=" in note
    model = read(tmp_path / "again").model
    np.testing.assert_array_equal(model.head.weight, imported.model.head.weight)
    with pytest.raises(RunError, match="pass template="):
        export_run(run.folder, tmp_path / "refused", like=tmp_path / "net.eqx")


@pytest.mark.slow
def test_the_program_imports_prunes_reports_and_exports(tmp_path, data, program):
    file = stored(tmp_path, writers.s4_network(layers=1))
    pruned = program(
        "prune", file, "--task", "arrays", "--data", data, "--ratio", "0.5", "--limit", 3, "--json"
    )
    assert (pruned["states_before"], pruned["states_after"]) == (12, 6)
    run = tmp_path / "runs/arrays/net"
    assert lastax.training.load_results(run)["test"]["examples"] == 3
    assert program("evaluate", run, "--json")["examples"] == 4
    assert len(program("score", run, "--json")["layers"]) == 1
    page = report_page([tmp_path / pruned["run"]], time_forward=False, on_warning=pytest.fail)
    assert f"lastax import {file} --task arrays --format s4" in page
    program(
        "export", pruned["run"], "--format", "s4-pth", "--out", tmp_path / "small.pth", "--json"
    )
    small = lastax.load(tmp_path / pruned["run"])
    again = open_contents(tmp_path / "small.pth").arrays["s4_layers.0.kernel.C"]
    nonzero = again[np.abs(again).sum(axis=-1) > 0]
    np.testing.assert_array_equal(nonzero, lastax.find_layers(small)[0].C)


@pytest.fixture
def program(shared, tmp_path, monkeypatch, capfd):
    """Run the program with arguments in an empty folder; what `--json` printed."""
    monkeypatch.setenv("LASTAX_CACHE", str(shared / "cache"))
    monkeypatch.chdir(tmp_path)

    def call(*arguments, status=0):
        monkeypatch.setattr(sys, "argv", ["lastax", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capfd.readouterr()
        assert ended.value.code == status, shown.err
        return json.loads(shown.out) if status == 0 else shown.err

    return call


def test_what_does_not_fit_is_named(tmp_path, data, program):
    given = read(stored(tmp_path, writers.s4_network(inputs=3)))
    config, source = opened(given, data)
    for imported, message in (
        (given, r"does not fit the data of arrays: values per step: 3; the data have 2"),
        (
            read(stored(tmp_path, writers.s4_network(classes=4))),
            r"does not fit the data of arrays: classes: 4; the data have 5",
        ),
        (
            read(stored(tmp_path, {"a": writers.s4_layer(), "b": writers.s4_layer()})),
            r"a run needs a whole network, and only layers were read",
        ),
    ):
        with pytest.raises(RunError, match=message):
            import_run(imported, tmp_path / "run", source, task="arrays", data_config=config)
    assert not (tmp_path / "run").exists()
    file = stored(tmp_path, writers.s4_network())
    assert "pass --task, one of speech" in program("prune", file, status=2)
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("hello")
    for arguments, status, message in (
        (["prune", "nowhere", "--task", "arrays"], 1, "there is no file or folder nowhere"),
        (["prune", "folder", "--task", "arrays"], 1, "the folder has no Orbax checkpoint"),
        (["prune", "text"], 1, "which is no known kind"),
        (["score", file], 1, "run lastax import first"),
        # Refused before the file is imported, which takes time.
        (["prune", file, "--task", "arrays", "--data", data, "--ratio", "2"], 2, "--ratio: must"),
    ):
        assert message in program(*arguments, status=status)
    assert not (tmp_path / "runs").exists()
    assert "no option clip_eigenvalues" in program(
        "import", file, "--task", "arrays", "--data", data, "--clip-eigenvalues", status=1
    )


def test_colors_are_scaled_as_by_the_foreign_code(tmp_path):
    imported = read(stored(tmp_path, writers.s4_network(inputs=3)))
    assert foreign_data_config(imported, "scifar").normalization == "per-image"
    given = foreign_data_config(imported, "scifar", normalization="standard")
    assert given.normalization == "standard"
    assert foreign_data_config(imported, "smnist").normalization is None
    with pytest.raises(ValueError, match="foreign_data_config: no task 'cifar'"):
        foreign_data_config(imported, "cifar")
