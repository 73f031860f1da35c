"""The exception of this package, which the program catches without loading the package."""

from lastax._errors import DataError as DataError
