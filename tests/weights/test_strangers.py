"""A part of the long trials in tests/faults/strangers.py."""

import pytest

from tests.faults import strangers
from tests.strangers import PTH


@pytest.mark.slow
def test_malicious_pytorch_files_by_the_command():
    rows = strangers.pytorch_files(len(PTH) // 4, seed=0)
    assert all(row.held for row in rows), rows


@pytest.mark.slow
def test_changed_model_files_are_read_or_refused():
    rows = strangers.model_files(100, seed=0)
    assert len(rows) == 3 and all(row.held for row in rows), rows
