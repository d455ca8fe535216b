"""How the threads of a training wait: what is set already stays, and what is set depends on the cores."""

import psutil
import pytest

from sefe_plugin.hosts.llamafactory.threads import set_waiting


@pytest.mark.parametrize(
    ("given", "busy", "found"),
    [
        ({}, 10.0, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}),
        ({}, 50.0, {"OMP_WAIT_POLICY": "PASSIVE"}),
        ({"OMP_NUM_THREADS": "2"}, 0.0, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}),
        ({"OMP_NUM_THREADS": "1"}, 0.0, {"OMP_WAIT_POLICY": "PASSIVE"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, 0.0, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "7"}, 0.0, {"GOMP_SPINCOUNT": "7"}),
    ],
)
def test_threads_stay_awake_where_cores_are_free(monkeypatch, given, busy, found):
    monkeypatch.setattr(psutil, "cpu_percent", lambda seconds: busy)
    monkeypatch.setattr(psutil, "cpu_count", lambda: 2)
    environment = dict(given)
    set_waiting(environment)
    assert environment == {**given, **found}
