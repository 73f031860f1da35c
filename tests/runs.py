"""Runs without training, for tests that only need a network and its configuration on disk."""

from pathlib import Path
from typing import Any

import jax

import lastax

SPEECH = {"data": lastax.training.DataConfig("speech", features="log-mel"), "input_size": 40}


def untrained_run(
    folder: Path, model: lastax.ModelConfig, *, task: str = "speech", **settings: Any
) -> lastax.Classifier:
    """Write a run to `folder`, and return its network. The defaults are those of `speech`."""
    settings = {**SPEECH, "classes": 10, "length": 101} | settings
    config = lastax.training.RunConfig(
        task=task,
        seed=0,
        model=model,
        training=lastax.training.TrainingConfig(),
        states=lastax.training.untrained_counts(model),
        **settings,
    )
    network = lastax.build_network(
        model,
        input_size=settings["input_size"],
        classes=settings["classes"],
        key=jax.random.key(0),
    )
    lastax.save(folder, network)
    lastax.training.save_config(folder, config)
    return network
