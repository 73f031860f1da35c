"""Rows of a summary: cells with different settings are not averaged."""

import numpy as np
import pytest

import lastax
from lastax.experiments import (
    PostProcessing,
    pack_correct,
    paired_differences,
    sweep_groups,
    sweep_summary,
)
from lastax.plots._style import method_styles


def cell(accuracy, *, layer="s5", post_processing=PostProcessing.NONE, **settings):
    return {
        **{"run": f"run-{layer}", "task": "speech", "layer": layer, "bidirectional": True},
        **{"method": "calibrated", "ratio": 0.8, "finetune": 0, "settings": settings},
        "post_processing": post_processing.value,
        "validation_accuracy": accuracy,
        "test_accuracy": accuracy,
    }


def test_cells_with_different_calibration_have_rows_of_their_own():
    cells = [
        cell(0.5, sequences=64, budget="probe", pruning_seed=0),
        cell(0.6, sequences=64, budget="probe", pruning_seed=1),
        cell(0.9, sequences=256, budget="probe", pruning_seed=0),
        cell(0.7, post_processing=PostProcessing.RECONSTRUCTED, sequences=64),
    ]
    (curves,) = sweep_groups(cells).values()
    assert {name: dict(points) for name, points in curves.test.items()} == {
        # Seeds of pruning are averaged.
        "calibrated (sequences 64)": {0.8: [0.5, 0.6]},
        "calibrated (sequences 256)": {0.8: [0.9]},
        "calibrated, reconstructed": {0.8: [0.7]},
    }


def test_groups_with_different_calibration_are_not_averaged():
    unpruned = [{**cell(0.9, layer=layer), "method": "unpruned"} for layer in ("s5", "s4d")]
    cells = [cell(0.9, layer="s5", sequences=256), cell(0.5, layer="s4d", sequences=64)]
    rows = {row["method"]: row["groups"] for row in sweep_summary(unpruned + cells)}
    assert rows == {"calibrated (sequences 256)": 1, "calibrated (sequences 64)": 1}
    with pytest.raises(lastax.serialization.RunError, match=r"no row 'calibrated' .*sequences 256"):
        paired_differences(cells, "calibrated")


def test_groups_that_were_evaluated_on_different_numbers_of_records_share_a_row():
    """As the sweeps of `make study`, whose tasks have test splits of different sizes."""
    unpruned = [{**cell(0.9, layer=layer), "method": "unpruned"} for layer in ("s5", "s4d")]
    cells = [cell(0.9, layer="s5"), cell(0.5, layer="s4d", limit=1000)]
    (row,) = sweep_summary(unpruned + cells)
    assert (row["method"], row["groups"]) == ("calibrated", 2)
    # Within a group, they are different measurements.
    cells += [cell(0.8, layer="s4d")]
    rows = {row["method"]: row["groups"] for row in sweep_summary(unpruned + cells)}
    assert rows == {"calibrated": 2, "calibrated (limit 1000)": 1}


@pytest.mark.parametrize(
    "label", ["last", "last, reconstructed", "last + 3 epochs", "last (sequences 64) + 3 epochs"]
)
def test_a_method_has_one_color(label):
    styles = method_styles(["aire", label, "last"])
    assert styles[label].color == styles["last"].color == method_styles(["last"])["last"].color
    assert styles["aire"].color != styles["last"].color


def test_settings_differ_in_their_markers():
    labels = ["calibrated (sequences 64)", "calibrated (sequences 256), reconstructed"]
    first, second, plain = method_styles([*labels, "calibrated"]).values()
    assert len({first.marker, second.marker, plain.marker}) == 3
    assert second.linestyle != first.linestyle
    assert plain.marker == method_styles(["calibrated"])["calibrated"].marker


def with_run(run, accuracy, **other):
    return {**cell(accuracy), "run": run, **other}


def test_a_method_that_fails_on_a_run_is_compared_with_the_others():
    unpruned = {"method": "unpruned", "ratio": 0.0}
    cells = [
        with_run("good", 0.9, **unpruned),
        with_run("bad", 0.5, **unpruned),
        with_run("good", None, method="last"),
        with_run("bad", 0.5, method="last"),
        with_run("good", 0.75, method="aire"),
        with_run("bad", None, method="aire"),
    ]
    (curves,) = sweep_groups(cells).values()
    assert curves.validation_losses["last"] == {0.8: 0}
    assert curves.test_losses["aire"][0.8] == pytest.approx(0.15)
    rows = {row["method"]: row for row in sweep_summary(cells)}
    # Removing 80 % costs nothing by `last`, and 15 points by `aire`.
    assert (rows["last"]["ratio"], rows["last"]["loss"]) == (0.8, 0)
    assert (rows["aire"]["ratio"], rows["aire"]["loss"]) == (0, 0)


def test_cells_may_be_read_once():
    cells = [with_run("one", 0.5, **pack_correct(np.ones(4, bool)))]
    assert paired_differences(iter(cells), "calibrated") == paired_differences(cells, "calibrated")


def test_losses_are_relative_to_the_unpruned_network_on_the_same_records():
    unpruned = {"method": "unpruned", "ratio": 0.0}
    cells = [
        {**cell(0.90), **unpruned},
        {**cell(1.00, limit=10), **unpruned},
        cell(0.89),
        cell(1.00, limit=10),
    ]
    (curves,) = sweep_groups(cells).values()
    losses = {name: points[0.8] for name, points in curves.test_losses.items()}
    assert losses == {
        "calibrated": pytest.approx(0.01),
        "calibrated (limit 10)": pytest.approx(0),
    }
