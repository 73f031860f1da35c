"""The one error that reading data raises."""


class DataError(Exception):
    """A data set cannot be read. The message is one line: which file, what is wrong, what to do."""
