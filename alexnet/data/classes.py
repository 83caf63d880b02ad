"""Class lists: which key and which words stand behind a label. Labels are matched by key, never by position."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Self
from unicodedata import category

import numpy as np

from ..errors import DataError

WNID = re.compile(r"n\d{8}")
MOST_NAMED = 10


@dataclass(frozen=True)
class Classes:
    """The classes in label order: `keys` are folder names or wnids and unique, `words` what a person reads.

    Words need not be unique (ImageNet's `crane` is a bird and a machine). DataError: a key twice, or not text.
    """

    keys: tuple[str, ...]
    words: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.keys) != len(self.words):
            raise DataError(f"{len(self.keys)} class keys but {len(self.words)} words")
        seen = set()
        for key in self.keys:
            # A key goes into JSON, tables and figures: one that is no text is better renamed than mangled there.
            if not key or any(category(c) in ("Cc", "Cs") for c in key):
                raise DataError(f"class {key!a}: a class name must be UTF-8 text without control characters; rename it")
            if key in seen:
                raise DataError(f"class {key!r} stands twice in the class list")
            seen.add(key)

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def of(cls, keys: Iterable[str], where: str = "the class list") -> Self:
        """Classes with these keys in this order; the words of a wnid are ImageNet's, else the key itself.

        A DataError names `where`, which they were read from.
        """
        keys = tuple(keys)
        try:
            return cls(keys, tuple(_imagenet_words().get(key, key) for key in keys))
        except DataError as reason:
            raise DataError(f"{where}: {reason}") from None

    def to_json(self) -> list[dict[str, str]]:
        """What `classes.json` holds: one `{"key", "words"}` a label, in label order."""
        return [{"key": key, "words": words} for key, words in zip(self.keys, self.words, strict=True)]

    @classmethod
    def from_json(cls, value: Any, where: str = "classes.json") -> Self:
        """The classes that `to_json` wrote; anything else is a DataError that names `where` and the field."""
        if not isinstance(value, list) or not value:
            raise DataError(f"{where}: expected a list of classes, one object a label")
        for label, entry in enumerate(value):
            if not isinstance(entry, dict):
                raise DataError(f'{where}: [{label}]: expected an object {{"key", "words"}}, got {entry!r}')
            for field in ("key", "words"):
                if not isinstance(entry.get(field), str):
                    raise DataError(f"{where}: [{label}].{field}: expected text, got {entry.get(field)!r}")
        try:
            return cls(tuple(entry["key"] for entry in value), tuple(entry["words"] for entry in value))
        except DataError as reason:
            raise DataError(f"{where}: {reason}") from None

    def match(self, other: "Classes", where: str, *, partial: bool = False) -> np.ndarray:
        """The label here of each label of `other`, by key: int64 (len(other),).

        Classes in another order are matched. A key of `other` that is unknown here is a DataError that names `where`
        and both differences; so is a key that `other` lacks, unless `partial`.
        """
        label = {key: index for index, key in enumerate(self.keys)}
        unknown = [key for key in other.keys if key not in label]
        lacking = set(self.keys) - set(other.keys)
        missing = [key for key in self.keys if key in lacking]
        if unknown or (missing and not partial):
            differences = [
                f"{name} {_listed(keys)}" for name, keys in (("unknown", unknown), ("missing", missing)) if keys
            ]
            raise DataError(f"{where}: its classes are not the {len(self)} expected: {'; '.join(differences)}")
        return np.array([label[key] for key in other.keys], dtype=np.int64)


def imagenet_classes() -> Classes:
    """ImageNet's 1,000 classes: wnids in ASCII order (a label is a wnid's place in it) and their WordNet words."""
    words = _imagenet_words()
    return Classes(tuple(words), tuple(words.values()))


@cache
def _imagenet_words() -> dict[str, str]:
    table = files("alexnet.data").joinpath("imagenet_classes.tsv").read_text(encoding="utf-8")
    return dict(line.split("\t") for line in table.splitlines())


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - MOST_NAMED} more" if len(keys) > MOST_NAMED else ""
    return ", ".join(keys[:MOST_NAMED]) + more
