"""The cache: the folder for data that was made or downloaded, and can be again."""

import os
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Final

OFFLINE: Final = "ALEXNET_OFFLINE"
# What reading an .npy or .npz raises that was cut short, overwritten or written by another program. An array's header
# is a dictionary in Python's notation, which numpy parses (as data) and may ask its tokenizer for.
DAMAGE: Final = (
    OSError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    SyntaxError,
    MemoryError,
    RecursionError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    tokenize.TokenError,
)


def offline() -> bool:
    """Whether nothing may be fetched: `--offline`, or $ALEXNET_OFFLINE is set, and not to 0."""
    return os.environ.get(OFFLINE, "0") not in ("", "0")


def cache_folder() -> Path:
    """$ALEXNET_CACHE, $XDG_CACHE_HOME/alexnet or ~/.cache/alexnet; it need not exist."""
    if named := os.environ.get("ALEXNET_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet"
