"""The command group `lastax bench`."""

import click

from lastax.cmd.bench._data import data
from lastax.cmd.bench._kernel import kernel
from lastax.cmd.bench._layer import layer
from lastax.cmd.bench._paper import paper
from lastax.cmd.bench._prune import prune
from lastax.cmd.bench._recurrence import recurrence
from lastax.cmd.bench._refit import refit
from lastax.cmd.bench._train_step import train_step


@click.group()
def bench() -> None:
    """Measure speed and memory on this machine.

    `recurrence`, `layer`, `kernel` and `train-step` compare lastax with a reference
    implementation: one complex associative scan per direction, differentiated by JAX, and complex
    matrix products. `prune` compares pruned networks with the unpruned network and with masked
    ones.
    """


for command in (recurrence, layer, kernel, train_step, prune, refit, data, paper):
    bench.add_command(command)
