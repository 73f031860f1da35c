"""The command line, thin over the library: one command a file, `main` the group."""

import sys

from lastax._errors import MissingPackageError


def start() -> None:
    """Entry point of the program. If a package is missing, one line says how to install it."""
    try:
        from lastax.cmd.main import main

        main()
    except ModuleNotFoundError as error:
        if "--debug" in sys.argv or (error.name or "").startswith("lastax"):
            raise
        if not isinstance(error, MissingPackageError):
            error = MissingPackageError("the program lastax", error)
        print(f"lastax: {error.msg}", file=sys.stderr)
        sys.exit(1)
