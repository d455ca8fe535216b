"""Sequences of stand-ins, without pictures in their reports."""

import pytest


@pytest.fixture(autouse=True)
def without_pictures(blank_pictures):
    """No pictures."""
