"""Sequences of stand-ins: their processes are forks, and their reports have no pictures."""

import pytest
import script_host
from warm_python import warm_script_python


@pytest.fixture(scope="session", autouse=True)
def quick_scripts():
    """Starts the scripts that stand in for the host in no time."""
    with warm_script_python() as script_host.PYTHON:
        yield


@pytest.fixture(autouse=True)
def without_pictures(blank_pictures):
    """No pictures."""
