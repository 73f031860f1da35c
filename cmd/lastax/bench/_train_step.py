"""`lastax bench train-step`: evaluation and training of a network."""

from lastax.cmd.bench._comparison import Suite, comparison_command
from lastax.cmd.bench._programs import (
    LASTAX,
    REFERENCE,
    Program,
    Shape,
    build_network,
    network_programs,
    with_settings,
)
from lastax.cmd.bench._reference import reference_network


def train_step_programs(shape: Shape) -> dict[str, Program]:
    """The forward pass, and a training step with its optimizer, also with `remat`."""
    network = build_network(shape)
    programs = network_programs(shape, {REFERENCE: reference_network(network), LASTAX: network})
    step = programs[f"training/{LASTAX}"]
    return programs | {f"training/{LASTAX}, remat": with_settings(step, remat=True)}


SUITE = Suite(
    "train-step", "Time the forward pass and a training step of a network.", train_step_programs
)
train_step = comparison_command(SUITE)
