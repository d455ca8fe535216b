# ruff: noqa: N803 - A and B are the names of the factors in the papers
"""The fused penalty: on a CPU in Triton's interpreter, in a process of its own; on a GPU compiled."""

import os
import subprocess
import sys

import pytest
import torch

from sefe_plugin.methods.reglora import union
from sefe_plugin.methods.reglora.codec import encode
from sefe_plugin.methods.reglora.penalty import matrix_penalty
from sefe_plugin.methods.reglora.union import KeyUnion


#: rows, columns, share of key elements, most tasks that choose one, elements of a panel
CASES = {
    "one task": (500, 300, 0.02, 1, 2**30),
    "seven tasks in panels": (500, 300, 0.1, 7, 40_000),
    "long skips": (600, 900, 0.0001, 3, 2**30),
    "every element": (400, 400, 1.0, 2, 50_000),
}


def problem(rows, cols, share, most):
    """Factors of whole numbers, whose products are exact, and how many tasks chose each element."""
    generator = torch.Generator().manual_seed(0)
    A = torch.randint(-3, 4, (5, cols), generator=generator).float()
    B = torch.randint(-3, 4, (rows, 5), generator=generator).float()
    times = torch.randint(1, most + 1, (rows, cols), generator=generator)
    return A, B, times * (torch.rand(rows, cols, generator=generator) < share)


def united(times, device):
    """The union of the tasks."""
    tasks = [(times.flatten() >= number).nonzero().squeeze(1) for number in range(1, int(times.max()) + 1)]
    return KeyUnion.of_tasks([encode(task, times.numel()) for task in tasks], times.shape, torch.device(device))


def expected(A, B, times):
    """The penalty of weight 1 and its gradients, dense, in double precision."""
    A, B, times = A.double(), B.double(), times.double()
    change = B @ A
    G = change.sign() * times
    return (change.abs() * times).sum(), B.T @ G, G @ A.T


def check(name, device):
    """Compare the fused penalty of a case with the dense one."""
    rows, cols, share, most, elements = CASES[name]
    union.PANEL_ELEMENTS = union.GPU_PANEL_ELEMENTS = elements
    A, B, times = problem(rows, cols, share, most)
    keys = united(times, device)
    assert (elements == 2**30) == (len(keys.panels) == 1)
    found = matrix_penalty(A.to(device), B.to(device), keys, 1.0, fused=True)
    for result, true in zip(found, expected(A, B, times), strict=True):
        torch.testing.assert_close(result.cpu().double(), true, rtol=1e-6, atol=0)
    plain = matrix_penalty(A.to(device), B.to(device), keys, 1.0)
    torch.testing.assert_close(list(found), list(plain), rtol=1e-6, atol=0)


def test_the_kernels_compute_the_penalty_in_the_interpreter():
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split("\n")[:-1] == list(CASES)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CASES)
def test_a_gpu_computes_the_same_with_the_kernels(monkeypatch, name):
    for elements in ("PANEL_ELEMENTS", "GPU_PANEL_ELEMENTS"):
        monkeypatch.setattr(union, elements, None)
    check(name, "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_needs_at_most_64_mb_more_with_the_kernels():
    A, B = torch.randn(128, 11008, device="cuda"), torch.randn(4096, 128, device="cuda")
    tasks = [encode(torch.rand(4096 * 11008).lt(0.02).nonzero().squeeze(1), 4096 * 11008) for _ in range(7)]
    keys = KeyUnion.of_tasks(tasks, (4096, 11008), A.device)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    matrix_penalty(A, B, keys, 1.0, fused=True)
    assert torch.cuda.max_memory_allocated() - before <= 64 * 2**20


def test_a_small_matrix_takes_the_plain_path():
    A, B, times = problem(20, 30, 0.1, 3)
    keys = united(times, "cpu")
    for result, true in zip(matrix_penalty(A, B, keys, 1.0, fused=True), expected(A, B, times), strict=True):
        torch.testing.assert_close(result.double(), true)


if __name__ == "__main__":
    for case in CASES:
        check(case, "cpu")
        print(case)
