"""`alexnet bench`."""

import json as json_format
from pathlib import Path
from typing import Literal

from ..errors import UsageError

What = Literal["lrn", "step", "data", "infer", "startup", "scale"]
USED: dict[What, tuple[str, ...]] = {
    "lrn": ("device",), "step": ("batch_size", "device", "precision", "kernels"), "data": ("precision",),
    "infer": ("device", "precision"), "startup": (), "scale": (),
}  # fmt: skip


def bench(
    what: What,
    data: Path | None = None,
    *,
    peers: bool = False,
    repeats: int = 5,
    batch_size: int = 128,
    device: str = "auto",
    precision: str = "auto",
    kernels: Literal["auto", "plain"] = "auto",
    json: bool = False,
) -> None:
    """Speed here, beside the machine's ceilings and, with --peers, other programs.

    alexnet bench lrn --peers
    alexnet bench data pictures --peers --repeats 7

    Parameters:
        what: lrn, step, data, infer, startup or scale
        data: a folder of class folders, for data
        peers: measure what else is installed, in turn with ours
        repeats: of each, after one that is not counted
        batch_size: of a step
        device: auto, cpu, cuda or mps
        precision: auto, fp32, tf32 or bf16
        kernels: auto, the fastest measured here, or plain
        json: print one JSON document
    """
    from rich.table import Table

    from ..bench import data as data_bench
    from ..bench import infer, lrn, machine, rows, scale, startup, step
    from ..network.kernels import PLAIN
    from ..network.variants import variant
    from ..ranks import device_of, keep_memory, multiply_in, precision_of
    from ..training.start import kernels_for
    from . import console_for

    if repeats < 1:
        raise UsageError(f"--repeats {repeats}: must be at least 1")
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: must be at least 1")
    if (what == "data") != (data is not None):
        raise UsageError("bench data: wants a folder" if what == "data" else f"bench {what}: takes no {data}")
    given = {"batch_size": batch_size != 128, "device": device != "auto", "precision": precision != "auto",
             "kernels": kernels != "auto"}  # fmt: skip
    for name, there in given.items():
        if there and name not in USED[what]:
            raise UsageError(f"--{name.replace('_', '-')}: bench {what} has no use for it")
    keep_memory()
    where = device_of(device)
    precise = precision_of(precision, where)
    console = console_for(json)
    here = machine.describe(where)
    multiply_in(precise, where)
    found: list[rows.Row]
    if what == "lrn":
        found = lrn.rows(here, where, repeats=repeats, peers=peers)
    elif what == "step":
        best = {name: PLAIN if kernels == "plain" else kernels_for(variant(name), batch=batch_size, precision=precise,
                                                                   device=where, console=console)
                for together in step.TURNS for name in together}  # fmt: skip
        found = step.rows(here, where, batch=batch_size, precision=precise, kernels=best, repeats=repeats, peers=peers)
    elif what == "data":
        assert data is not None
        found = data_bench.rows(data, precision=precise, repeats=repeats, peers=peers)
    elif what == "infer":
        found = infer.rows(here, where, precision=precise, repeats=repeats, peers=peers)
    elif what == "startup":
        found = startup.rows(repeats=repeats, peers=peers)
    else:
        found = scale.rows(repeats=repeats, peers=peers)
    if peers and (lost := rows.missing(what)):
        console.print(f"not installed: {', '.join(lost)}: pip install 'alexnet[peers]'")
    result = {"machine": here, "rows": rows.document(found)}
    if json:
        print(json_format.dumps(result))
        return
    rates = ", ".join(f"{rate / 1e9:.0f} in {name}" for name, rate in here["macs_per_second"].items())
    console.print(
        f"{here['device']}, {here['threads']} threads; at best G multiply-adds a second: {rates}; "
        f"{here['bytes_per_second'] / 1e9:.0f} GB/s copied"
    )
    table = Table("what", "who", "median", "spread", "times ours", "of the floor")
    for row in result["rows"]:
        share = "" if row["floor"] is None else f"{100 * row['floor'] / row['median']:.0f} %"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        middle, spread = readable(row["median"], row["unit"]), f"{100 * row['spread']:.0f} %" if repeats > 1 else ""
        table.add_row(row["what"], row["who"], middle, spread, ratio, share)
    console.print(table, soft_wrap=False)


def readable(value: float, unit: str) -> str:
    """A measured value for a person."""
    if unit == "bytes":
        return f"{value / 1e6:.0f} MB"
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms"
