"""The steps from pictures are the steps of a training."""

import itertools

from alexnet.data.sources import open_source
from alexnet.network.kernels import PLAIN
from tests.bench import script
from tests.pictures import write_folder


def test_both_sides_take_steps(tmp_path, monkeypatch):
    ours = script("end_to_end")
    monkeypatch.setattr(ours, "kernels_for", lambda *given, **more: PLAIN)
    job = ours.job_of(open_source(write_folder(tmp_path, classes=2, each=3)), "fp32", 2)
    before = job.model.get_parameter("fc8.bias").detach().clone()
    stream = ours.coming(job)
    there = next(stream)
    stream.close()
    assert there.images.shape == (2, 224, 224, 3)
    for made in (lambda: ours.coming(job), lambda: itertools.repeat(there)):
        assert ours.seconds(job, made, 1) > 0
    assert not before.equal(job.model.get_parameter("fc8.bias"))
