"""Failures that a user can mend: one line that names the thing and the remedy."""


class RunError(Exception):
    """A run, a checkpoint or a file of one is missing, damaged or in the way."""


class TrainingDivergedError(Exception):
    """The loss or a parameter is no longer a finite number."""
