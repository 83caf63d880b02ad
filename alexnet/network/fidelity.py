"""`python -m alexnet.network.fidelity > docs/fidelity.md`: the marks of the table, as a page."""

import re
import sys

from alexnet.network import variants
from alexnet.network.cost import words
from alexnet.network.variants import VARIANTS, Variant


def page() -> str:
    """The whole page: each variant's rows with their sources, then all that is SILENT and all that DEVIATES."""
    legend = (variants.__doc__ or "").split("\n\n")[1].replace("\n", " ")
    parts = [
        "# Fidelity\n\nEvery number of every variant, beside its source. "
        "Generated from `alexnet/network/variants.py` by `python -m alexnet.network.fidelity > docs/fidelity.md`.",
        legend,
        *(_section(variant) for variant in VARIANTS.values()),
        "## SILENT: what the sources do not say\n\n" + _listed("SILENT"),
        "## DEVIATES: where we differ on purpose\n\n" + _listed("DEVIATES"),
    ]
    return "\n\n".join(parts) + "\n"


def _section(variant: Variant) -> str:
    mean = "the mean image" if variant.mean == "image" else f"mean {variant.mean}"
    rows = [f"| {row.name} | {row.kind} | {words(row)} | {row.mark} |" for row in variant.layers]
    return "\n".join(
        [
            f"## {variant.name}\n",
            f"{variant.source}.\n",
            f"Input: {variant.side} px, {variant.colour}, values · {variant.scale:.6g}, {mean} ({variant.mean_crop}), "
            f"std {variant.std}; made square by: {variant.resize}.\n",
            "| layer | kind | numbers | source |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def _listed(word: str) -> str:
    """Each remark behind `word`, once, with every place that bears it."""
    places: dict[str, dict[str, list[str]]] = {}
    for variant in VARIANTS.values():
        for layer, mark in [("input", variant.source), *((row.name, row.mark) for row in variant.layers)]:
            for remark in re.findall(rf"{word}:? (.*?)(?=\.? (?:SILENT|DEVIATES)|$)", mark):
                places.setdefault(remark, {}).setdefault(variant.name, []).append(layer)
    return "\n".join(f"- {remark} — {_where(by)}" for remark, by in places.items())


def _where(by: dict[str, list[str]]) -> str:
    return "; ".join(f"`{name}` {', '.join(layers)}" for name, layers in by.items())


if __name__ == "__main__":
    sys.stdout.write(page())
