"""The command group `lastax bench`."""

import click

from lastax.cmd._lazy import LazyGroup

_MEMBERS = {
    "recurrence": ("lastax.cmd.bench._recurrence:recurrence", "Scan methods."),
    "layer": ("lastax.cmd.bench._layer:layer", "Layers and their gradients."),
    "kernel": ("lastax.cmd.bench._kernel:kernel", "Convolution kernels."),
    "train-step": ("lastax.cmd.bench._train_step:train_step", "Training steps of networks."),
    "state-penalty": (
        "lastax.cmd.bench._state_penalty:state_penalty",
        "Training steps with a penalty on states.",
    ),
    "prune": ("lastax.cmd.bench._prune:prune", "Networks without a part of their states."),
    "refit": ("lastax.cmd.bench._refit:refit", "The elimination order and the solve of a refit."),
    "data": ("lastax.cmd.bench._data:data", "Samples per second of the pipeline and of training."),
    "gpu": ("lastax.cmd.bench._gpu:gpu", "Full-scale sizes on a GPU."),
    "devices": ("lastax.cmd.bench._devices:devices", "A training step on several devices."),
    "paper": ("lastax.cmd.bench._paper:paper", "Training cost of the full-scale presets."),
}


@click.group(cls=LazyGroup, members=_MEMBERS)
def bench() -> None:
    """Measure speed and memory on this machine.

    `recurrence`, `layer`, `kernel` and `train-step` compare lastax with a reference
    implementation: one complex associative scan per direction, differentiated by JAX, and complex
    matrix products. `state-penalty` compares steps with a penalty with the step without one.
    `prune` compares pruned networks with the unpruned network and with masked ones.
    """
