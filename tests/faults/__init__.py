"""Long trials of what must never break: `make faults` runs them whole and prints one table; the tests, in part.

A module a subject; each of its functions takes how many times to try and a seed, and returns rows.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table: what was tried, how often, what was asked for and what was seen."""

    what: str
    times: int
    asked: str
    seen: str
    held: bool
