"""A model of another world becomes a run: a folder that every verb takes, and that `train` goes on with."""

from contextlib import closing
from dataclasses import asdict
from typing import Any

import torch

from .. import files
from ..errors import UsageError, WeightsError
from ..network.kernels import PLAIN
from ..ranks import precision_of
from ..weights.checkpoint import Checkpoint, Store, optimizer_tensors
from ..weights.run import Loaded, Run
from .again import environment
from .loop import State
from .optim import optimizer
from .recipes import RECIPES
from .start import Asked, begin_run, resolve, resolved

CPU = torch.device("cpu")


def adopt(loaded: Loaded, run: Run) -> None:
    """Writes the run folder of a model file: its weights, and the optimizer's state where the file has one.

    Its recipe is the first whose variant it is. `train` goes on with it at the step that the file says, on pictures
    that are named then. UsageError: there is a run already, or the folder cannot be written.
    """
    model, given = loaded.model, loaded.given
    moments, step = (given.moments, given.step) if given else ({}, 0)
    name = next((one.name for one in RECIPES.values() if one.variant == model.variant.name), "fast")
    if moments:  # the one program whose optimizer is read trains so
        name = "article-printed"
    asked = Asked(data="", recipe=name, variant=model.variant.name)
    chosen, origin = resolve(asked)
    rule = optimizer(model, chosen)
    for field, values in moments.items():
        for parameter, value in values.items():
            rule.state[model.get_parameter(parameter)][field] = value
    run.create()
    with files.lock(run.folder / "lock"), closing(Store(run.folder)) as store:
        if run.begun():  # what could not be saved is written anew
            raise UsageError(f"{run.folder}: there is a run already; name another --run")
        steps = {"value": step, "origin": "import"}
        record: dict[str, Any] = {
            "classes": loaded.classes.to_json(),
            "data": {},
            "environment": environment(CPU, 0, PLAIN),
            "recipe": resolved(asked, chosen, origin, workers=0, precision=precision_of("auto", CPU), steps=steps),
        }
        begin_run(run, record, loaded.preprocess, loaded.mean)
        state = State(step=step, lr=chosen.lr)
        store.save(Checkpoint(model.state_dict(), optimizer_tensors(rule), asdict(state)), best=True)
        try:
            store.settle()
        except WeightsError as reason:
            raise UsageError(str(reason)) from None
