"""Runtime checks of all annotations, enabled by the environment variable LASTAX_TYPECHECK=1.

This module is imported first, because the hook applies only to modules that are imported after it.
"""

import os

if os.environ.get("LASTAX_TYPECHECK", "0") not in ("", "0"):
    from jaxtyping import install_import_hook

    install_import_hook("lastax", "beartype.beartype")
