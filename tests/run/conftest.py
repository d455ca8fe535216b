"""Sequences without pictures in their reports: drawing takes longer than all else in a run of a stand-in."""

import pytest
from matplotlib.figure import Figure


@pytest.fixture(autouse=True)
def blank_pictures(monkeypatch):
    """Blank pictures in all reports; `tests/evaluation` and `tests/hosts` draw."""
    for name in ("draw_matrices", "draw_curves"):
        monkeypatch.setattr(f"sefe_plugin.evaluation.figures.{name}", lambda *data, **more: Figure((1, 1)))
