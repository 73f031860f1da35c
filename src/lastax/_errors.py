"""Errors that the user can fix. Each message is one line with the cause and the remedy."""


class RunError(Exception):
    """A run, a checkpoint or one of their files is missing, damaged, or already exists."""


class TrainingDivergedError(Exception):
    """The loss or a parameter is not finite."""


class DataError(Exception):
    """A data set cannot be read or written.

    The message is one line: the file, what is wrong, what to do.
    """


class MissingPackageError(ModuleNotFoundError):
    """A package is not installed, and an extra of lastax brings it."""

    def __init__(self, user: str, error: ModuleNotFoundError, extra: str = "cli") -> None:
        """Say that `user` needs the package that `error` did not find, and the extra to install."""
        package = (error.name or str(error)).partition(".")[0]
        super().__init__(
            f"{user} needs {package}: run pip install 'lastax[{extra}]'", name=error.name
        )
