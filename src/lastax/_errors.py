"""Errors that the user can fix. Each message is one line with the cause and the remedy."""


class RunError(Exception):
    """A run, a checkpoint or one of their files is missing, damaged, or already exists."""


class TrainingDivergedError(Exception):
    """The loss or a parameter is not finite."""
