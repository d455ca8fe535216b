# ruff: noqa: N803 - A and B are the names of the factors in the papers
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sefe_plugin.methods.reglora import penalty, union
from sefe_plugin.methods.reglora.codec import encode
from sefe_plugin.methods.reglora.penalty import MatrixPenalty, matrix_penalty
from sefe_plugin.methods.reglora.union import KeyUnion


def problem(rows, cols, rank, count, seed=0):
    """Random factors, positions and multiplicities."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(rank, cols, generator=generator)
    B = torch.randn(rows, rank, generator=generator)
    indices = torch.randperm(rows * cols, generator=generator)[:count].sort().values
    multiplicity = torch.randint(1, 8, (count,), generator=generator, dtype=torch.uint8)
    return A, B, indices, multiplicity


def united(indices, multiplicity, rows, cols):
    """The union of tasks by which position p is chosen multiplicity[p] times."""
    tasks = [encode(indices[multiplicity >= times], rows * cols) for times in range(1, int(multiplicity.max()) + 1)]
    return KeyUnion.of_tasks(tasks, (rows, cols), torch.device("cpu"))


def by_hand(A, B, indices, multiplicity, weight):
    """The penalty in double precision, element by element."""
    A, B = A.double(), B.double()
    total = 0.0
    for position, times in zip(indices.tolist(), multiplicity.tolist(), strict=True):
        row, col = divmod(position, A.shape[1])
        total += times * abs(sum(B[row, k].item() * A[k, col].item() for k in range(A.shape[0])))
    return weight * total


def gradient_by_hand(A, B, indices, multiplicity, weight):
    """Its gradient in double precision, element by element."""
    A, B = A.double(), B.double()
    grad_A, grad_B = torch.zeros_like(A), torch.zeros_like(B)
    for position, times in zip(indices.tolist(), multiplicity.tolist(), strict=True):
        row, col = divmod(position, A.shape[1])
        sign = torch.sign(B[row] @ A[:, col])
        grad_A[:, col] += weight * times * sign * B[row]
        grad_B[row] += weight * times * sign * A[:, col]
    return grad_A, grad_B


#: Per way to evaluate the penalty: elements of a panel, rows and share of key elements from which products are dense.
WAYS = {
    "dense": (2**20, 2**60, 0.0),
    "dense_panels": (16, 2**60, 0.0),
    "positions": (2**20, 0, 1.0),
    "positions_panels": (16, 0, 1.0),
    "mixed": (2**20, 0, 0.0),
    "mixed_panels": (16, 0, 0.0),
}


@pytest.fixture(params=WAYS)
def evaluator(request, monkeypatch):
    elements, large, sparse = WAYS[request.param]
    monkeypatch.setattr(union, "PANEL_ELEMENTS", elements)
    monkeypatch.setattr(penalty, "_LARGE", large)
    monkeypatch.setattr(penalty, "_SPARSE", sparse)


# fp32 sums of at most some hundred terms; the reference is in double precision.
TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (6, 5, 2, 9), (13, 7, 3, 91), (9, 40, 1, 30)])
def test_value_and_gradient_equal_a_double_loop(evaluator, shape):
    A, B, indices, multiplicity = problem(*shape)
    value, grad_A, grad_B = matrix_penalty(A, B, united(indices, multiplicity, len(B), A.shape[1]), 0.3)
    expected_A, expected_B = gradient_by_hand(A, B, indices, multiplicity, 0.3)
    torch.testing.assert_close(value.item(), by_hand(A, B, indices, multiplicity, 0.3), **TOLERANCE)
    torch.testing.assert_close(grad_A.double(), expected_A, **TOLERANCE)
    torch.testing.assert_close(grad_B.double(), expected_B, **TOLERANCE)


def test_gradient_equals_finite_differences(evaluator):
    A, B, indices, multiplicity = problem(5, 4, 2, 8)
    _, grad_A, grad_B = matrix_penalty(A, B, united(indices, multiplicity, 5, 4), 1.7)
    # The penalty is linear in one entry as long as no sign changes, so a central difference is exact up to rounding.
    step = 1e-6
    for factor, grad in ((A, grad_A), (B, grad_B)):
        for entry in range(factor.numel()):
            ends = []
            for sign in (1, -1):
                moved = factor.double().clone()
                moved.view(-1)[entry] += sign * step
                ends.append(by_hand(*((moved, B) if factor is A else (A, moved)), indices, multiplicity, 1.7))
            slope = (ends[0] - ends[1]) / (2 * step)
            assert grad.flatten()[entry].item() == pytest.approx(slope, rel=1e-4, abs=1e-5)


def test_gradient_is_zero_off_the_key_elements(evaluator):
    _, change, indices, multiplicity = problem(6, 5, 5, 9)
    _, _, grad = matrix_penalty(torch.eye(5), change, united(indices, multiplicity, 6, 5), 2.0)
    expected = torch.zeros(30)
    expected[indices] = 2.0 * multiplicity * change.flatten()[indices].sign()
    assert torch.equal(grad, expected.view(6, 5))  # A is the identity, so the gradient by B is that by B A, exactly


def test_no_change_has_no_gradient(evaluator):
    A, B, indices, multiplicity = problem(6, 5, 2, 30)
    value, grad_A, grad_B = matrix_penalty(A, 0 * B, united(indices, multiplicity, 6, 5), 1.0)
    assert value == 0
    assert not grad_A.any()
    assert not grad_B.any()


def test_bfloat16_factors_are_evaluated_in_fp32(evaluator):
    A, B, indices, multiplicity = problem(13, 7, 3, 40)
    A, B = A.bfloat16(), B.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value, grad_A, grad_B = matrix_penalty(A, B, united(indices, multiplicity, 13, 7), 0.3)
    assert value.dtype == grad_A.dtype == grad_B.dtype == torch.float32
    expected_A, expected_B = gradient_by_hand(A, B, indices, multiplicity, 0.3)
    torch.testing.assert_close(value.item(), by_hand(A, B, indices, multiplicity, 0.3), **TOLERANCE)
    torch.testing.assert_close(grad_A.double(), expected_A, **TOLERANCE)
    torch.testing.assert_close(grad_B.double(), expected_B, **TOLERANCE)


def test_autograd_function_scales_the_gradient(evaluator):
    A, B, indices, multiplicity = problem(6, 5, 2, 9)
    A.requires_grad_(), B.requires_grad_()
    (3 * MatrixPenalty.apply(A, B, united(indices, multiplicity, 6, 5), 0.5) ** 2).backward()
    value = by_hand(A, B, indices, multiplicity, 0.5)
    expected_A, expected_B = gradient_by_hand(A.detach(), B.detach(), indices, multiplicity, 0.5)
    torch.testing.assert_close(A.grad.double(), 6 * value * expected_A, **TOLERANCE)
    torch.testing.assert_close(B.grad.double(), 6 * value * expected_B, **TOLERANCE)


def test_a_loss_scale_keeps_the_gradient_of_fp16_factors_from_underflow():
    A, B, indices, multiplicity = problem(6, 5, 2, 9)
    A, B = A.half().requires_grad_(), B.half().requires_grad_()
    keys = united(indices, multiplicity, 6, 5)
    _, *expected = matrix_penalty(A, B, keys, 1e-10)
    assert not any(grad.half().any() for grad in expected)
    (2**16 * MatrixPenalty.apply(A, B, keys, 1e-10)).backward()
    for factor, grad in zip((A, B), expected, strict=True):
        assert factor.grad.dtype == torch.float16
        assert factor.grad.any()
        # one rounding to fp16, whose least positive value is 2^-24
        torch.testing.assert_close(factor.grad.float() / 2**16, grad, rtol=2**-11, atol=2**-25 / 2**16)


@pytest.mark.parametrize(("rows", "cols", "count"), [(700, 800, 11200), (256, 300, 70000), (1000, 10, 500)])
def test_all_ways_agree_at_sizes_where_each_may_be_taken(monkeypatch, rows, cols, count):
    A, B, indices, multiplicity = problem(rows, cols, 4, count)
    results = []
    for elements, large, sparse in WAYS.values():
        monkeypatch.setattr(union, "PANEL_ELEMENTS", 1000 * elements)
        monkeypatch.setattr(penalty, "_LARGE", large)
        monkeypatch.setattr(penalty, "_SPARSE", sparse)
        results.append(matrix_penalty(A, B, united(indices, multiplicity, rows, cols), 1.0))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-5, atol=1e-3)  # fp32 sums of up to 70,000 terms


class Largest(TorchDispatchMode):
    """Note the number of elements of the largest tensor made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.layout == torch.strided:
            self.numel = max(self.numel, result.numel())
        return result


@pytest.mark.parametrize("way", WAYS)
def test_the_dense_product_never_exists(monkeypatch, way):
    A, B, indices, multiplicity = problem(300, 400, 2, 2400)
    _, large, sparse = WAYS[way]
    monkeypatch.setattr(union, "PANEL_ELEMENTS", 6000)
    monkeypatch.setattr(penalty, "_LARGE", large)
    monkeypatch.setattr(penalty, "_SPARSE", sparse)
    keys = united(indices, multiplicity, 300, 400)
    with Largest() as largest:
        matrix_penalty(A, B, keys, 1.0)
    assert largest.numel <= 6000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("offload", [False, True])
def test_a_gpu_computes_the_same(offload):
    A, B, indices, multiplicity = problem(700, 800, 16, 11200)
    keys = united(indices, multiplicity, 700, 800)
    expected = matrix_penalty(A, B, keys, 0.3)
    keys = keys if offload else KeyUnion(keys.codes.cuda(), keys.panels)
    results = matrix_penalty(A.cuda(), B.cuda(), keys, 0.3)
    torch.testing.assert_close([result.cpu() for result in results], list(expected), rtol=1e-4, atol=1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_needs_at_most_64_mb_more():
    A, B = torch.randn(128, 11008, device="cuda"), torch.randn(4096, 128, device="cuda")
    tasks = [encode(torch.rand(4096 * 11008).lt(0.02).nonzero().squeeze(1), 4096 * 11008) for _ in range(7)]
    keys = KeyUnion.of_tasks(tasks, (4096, 11008), A.device)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    matrix_penalty(A, B, keys, 1.0)
    assert torch.cuda.max_memory_allocated() - before <= 64 * 2**20
