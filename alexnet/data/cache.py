"""The cache: the folder for data that was made or downloaded, and can be again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$ALEXNET_CACHE, $XDG_CACHE_HOME/alexnet or ~/.cache/alexnet; it need not exist."""
    if named := os.environ.get("ALEXNET_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet"
