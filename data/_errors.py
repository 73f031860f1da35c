"""The exception of this package."""


class DataError(Exception):
    """A data set cannot be read or written.

    The message is one line: the file, what is wrong, what to do.
    """
