"""How the threads of a training on a CPU wait for each other, decided once for a whole sequence."""

from collections.abc import MutableMapping

import psutil


#: Rounds that a waiting thread stays awake, about a tenth of a millisecond; libgomp's own default is 300,000.
_ROUNDS = "10000"

#: Cores that others may use while the machine still counts as free, and seconds for which that is looked at.
_OTHERS, _SECONDS = 0.5, 0.3


def set_waiting(environment: MutableMapping[str, str]) -> None:
    """Have threads that wait stay awake for a moment on a free machine, and sleep at once where cores are shared.

    A thread that is awake goes on at once when the others are ready. But where another program needs its core, all
    threads wait for the one that shares it, and being awake takes its time. Variables that are set already stay.

    Args:
        environment: Gets OMP_WAIT_POLICY, and on a free machine GOMP_SPINCOUNT; before PyTorch is loaded.
    """
    if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & environment.keys():
        return
    environment["OMP_WAIT_POLICY"] = "PASSIVE"
    if environment.get("OMP_NUM_THREADS") != "1" and _busy_cores() < _OTHERS:
        environment["GOMP_SPINCOUNT"] = _ROUNDS


def _busy_cores() -> float:
    """Return how many cores are at work, while this process is not."""
    return psutil.cpu_percent(_SECONDS) / 100 * psutil.cpu_count()
