"""torchvision's AlexNet: the names of its layers, and the weights that it publishes."""

import re
import sys
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path

from .. import files
from ..data.cache import offline
from ..errors import WeightsError
from ..network.variants import ALIASES, TORCHVISIONS

VARIANT = "torchvision"
# where several GPUs shared the convolutions, these were wrapped: `features.module.0`
NAME = re.compile(r"(features|classifier)\.(?:module\.)?(\d+)\.(weight|bias)")


def our_names(theirs: Iterable[str]) -> dict[str, str]:
    """Their name of each tensor that is one of torchvision's -> ours: `features.0.weight` -> `conv1.weight`."""
    found = {}
    for name in theirs:
        match = NAME.fullmatch(name)
        layer = ALIASES.get(f"{match[1]}.{match[2]}") if match else None
        if match and layer:
            found[name] = f"{layer}.{match[3]}"
    return found


def plain_name(theirs: str) -> str | None:
    """torchvision's own name of a tensor, without what wrappers put into it; None: it is not one of torchvision's."""
    match = re.search(f"{NAME.pattern}$", theirs)
    return f"{match[1]}.{match[2]}.{match[3]}" if match else None


def their_names(ours: Iterable[str]) -> dict[str, str]:
    """Our name of each tensor of the variant -> torchvision's: `conv1.weight` -> `features.0.weight`."""
    layers = {ours: theirs for theirs, ours in TORCHVISIONS.items()}
    return {f"{layer}.{part}": f"{layers[layer]}.{part}" for layer, _, part in (name.partition(".") for name in ours)}


def published() -> Path:
    """The file of the weights that torchvision publishes, fetched at first use.

    WeightsError: it cannot be fetched, or may not, or its SHA-256 does not begin as its name says.
    """
    # imported here: slow, and for nobody else
    from torch import hub
    from torchvision.models import AlexNet_Weights

    url = AlexNet_Weights.IMAGENET1K_V1.url
    path = Path(hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    begins = path.stem.rpartition("-")[2]
    try:
        if not path.exists():
            if offline():
                raise WeightsError(f"imagenet: not at {path}, and nothing is fetched (--offline)")
            path.parent.mkdir(parents=True, exist_ok=True)
            with redirect_stdout(sys.stderr):  # stdout may carry a JSON document
                hub.download_url_to_file(url, str(path), hash_prefix=begins, progress=False)
        if not files.sha256(path).startswith(begins):
            raise WeightsError(f"{path}: not the file that torchvision published; delete it, and it is fetched again")
    except (OSError, RuntimeError) as reason:  # RuntimeError where the hash is another
        raise WeightsError(f"imagenet: torchvision's weights could not be fetched ({reason})") from None
    return path
