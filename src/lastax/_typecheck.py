"""Checking every annotation while the program runs, for those who ask: LASTAX_TYPECHECK=1.

Imported before all others: the hook sees what is imported after it.
"""

import os

from jaxtyping import install_import_hook

if os.environ.get("LASTAX_TYPECHECK"):
    install_import_hook("lastax", "beartype.beartype")
