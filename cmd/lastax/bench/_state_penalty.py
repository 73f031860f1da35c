"""`lastax bench state-penalty`: a training step with each term that makes states redundant."""

import lastax
from lastax.cmd.bench._comparison import Suite, comparison_command
from lastax.cmd.bench._programs import (
    LASTAX,
    Program,
    Shape,
    build_network,
    network_programs,
    with_settings,
)


def state_penalty_programs(shape: Shape) -> dict[str, Program]:
    """A training step without a penalty, and with each of them."""
    name = f"training/{LASTAX}"
    step = network_programs(shape, {LASTAX: build_network(shape)})[name]
    return {name: step} | {
        f"{name}, {penalty}": with_settings(step, penalty=function, penalty_weight=1.0)
        for penalty, function in lastax.analysis.STATE_PENALTIES.items()
    }


SUITE = Suite(
    "state-penalty",
    "Time a training step with a penalty on states.",
    state_penalty_programs,
    baseline=LASTAX,
    described="the step without a penalty",
)
state_penalty = comparison_command(SUITE)
