"""`lastax bench prune`: pruned networks, and the same networks with masks."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import lastax
from lastax.cmd.bench._comparison import Suite, comparison_command
from lastax.cmd.bench._programs import (
    CLASSES,
    LASTAX,
    MASKED,
    Program,
    Shape,
    build_network,
    network_programs,
)
from lastax.cmd.bench._reference import reference_network
from lastax.nn import Network
from lastax.serialization import folder_written_at_once

RATIOS = (0.3, 0.5, 0.8)
# Shape of the full-scale preset of the task `image`.
IMAGE = Shape(50, 1024, 512, 192, 6)


def prune_programs(shape: Shape) -> dict[str, Program]:
    """Networks without 30, 50 and 80 % of their states, removed and masked."""
    network = build_network(shape)
    return network_programs(shape, {LASTAX: network} | pruned_networks(network, RATIOS))


def pruned_networks(network: Network, ratios: Sequence[float]) -> dict[str, Network]:
    """A network with states removed, and its reference implementation with the same states masked.

    They are named by the share of removed states, for example `lastax 80 %` and `masked 80 %`.
    """
    networks: dict[str, Network] = {}
    for ratio in ratios:
        plan = lastax.plan_pruning(network, ratio=ratio, method="uniform-hinf")
        percent = f"{100 * ratio:.0f} %"
        masked = lastax.keep_states(reference_network(network), plan.keep)
        networks[f"{MASKED} {percent}"] = masked
        networks[f"{LASTAX} {percent}"] = lastax.keep_states(network, plan.keep)
    return networks


def seconds_to_prune(shape: Shape) -> float:
    """Seconds that `lastax prune` needs between start and evaluation.

    They include loading the run, scoring and selecting states, and saving the pruned run.
    """
    config = lastax.training.RunConfig(
        task="image",
        size="paper",
        seed=0,
        data=lastax.training.DataConfig("image"),
        input_size=1,
        classes=CLASSES,
        length=shape.length,
        model=shape.model,
        training=lastax.training.TrainingConfig(),
        states=lastax.training.untrained_counts(shape.model),
    )
    with tempfile.TemporaryDirectory() as name:
        run, target = Path(name) / "run", Path(name) / "pruned"
        with folder_written_at_once(run) as fresh:
            lastax.training.save_config(fresh, config)
            lastax.save(fresh, lastax.training.build_from_config(config))
        started = time.perf_counter()
        config, model = lastax.training.load_run(run)
        plan = lastax.plan_pruning(model, ratio=0.3)
        small = plan.apply(model)
        with folder_written_at_once(target) as fresh:
            lastax.training.save_config(fresh, lastax.training.keep_in_config(config, plan.keep))
            lastax.save(fresh, small)
        return time.perf_counter() - started


SUITE = Suite(
    "prune",
    "Time pruned networks, and the same networks with masks in place of removed states. The column "
    "`over masked` compares the two.",
    prune_programs,
    baseline=LASTAX,
    described="the unpruned network",
    prune_seconds=lambda: seconds_to_prune(IMAGE),
)
prune = comparison_command(SUITE)
