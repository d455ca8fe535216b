# ruff: noqa: N803 - A and B are the names of the factors in the papers
import pytest
import torch

from sefe_plugin.reglora import key_elements, penalty
from sefe_plugin.reglora.codec import encode
from sefe_plugin.reglora.penalty import MatrixPenalty, matrix_penalty


def problem(rows, cols, rank, count, seed=0):
    """Random factors, positions and multiplicities."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(rank, cols, generator=generator)
    B = torch.randn(rows, rank, generator=generator)
    indices = torch.randperm(rows * cols, generator=generator)[:count].sort().values
    multiplicity = torch.randint(1, 8, (count,), generator=generator, dtype=torch.uint8)
    return A, B, indices, multiplicity


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


@pytest.fixture(params=["tiles", "one_tile", "positions"])
def evaluator(request, monkeypatch):
    """Each way to evaluate the penalty: dense by several tiles, by one, and at the positions alone."""
    monkeypatch.setattr(penalty, "_LARGE", 0 if request.param == "positions" else 2**60)
    monkeypatch.setattr(key_elements, "TILE_ELEMENTS", 50 if request.param == "tiles" else 2**20)


# fp32 sums of at most some hundred terms; the reference is in double precision.
TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (6, 5, 2, 9), (13, 7, 3, 91), (9, 40, 1, 30)])
def test_value_and_gradient_equal_a_double_loop(evaluator, shape):
    A, B, indices, multiplicity = problem(*shape)
    value, grad_A, grad_B = matrix_penalty(A, B, encode(indices, A.shape[1] * len(B)), multiplicity, 0.3)
    expected_A, expected_B = gradient_by_hand(A, B, indices, multiplicity, 0.3)
    torch.testing.assert_close(value.item(), by_hand(A, B, indices, multiplicity, 0.3), **TOLERANCE)
    torch.testing.assert_close(grad_A.double(), expected_A, **TOLERANCE)
    torch.testing.assert_close(grad_B.double(), expected_B, **TOLERANCE)


def test_gradient_equals_finite_differences(evaluator):
    A, B, indices, multiplicity = problem(5, 4, 2, 8)
    _, grad_A, grad_B = matrix_penalty(A, B, encode(indices, 20), multiplicity, 1.7)
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
    _, _, grad = matrix_penalty(torch.eye(5), change, encode(indices, 30), multiplicity, 2.0)
    expected = torch.zeros(30)
    expected[indices] = 2.0 * multiplicity * change.flatten()[indices].sign()
    assert torch.equal(grad, expected.view(6, 5))  # A is the identity, so the gradient by B is that by B A, exactly


def test_no_change_has_no_gradient(evaluator):
    A, B, indices, multiplicity = problem(6, 5, 2, 30)
    value, grad_A, grad_B = matrix_penalty(A, 0 * B, encode(indices, 30), multiplicity, 1.0)
    assert value == 0
    assert not grad_A.any()
    assert not grad_B.any()


def test_bfloat16_factors_are_evaluated_in_fp32(evaluator):
    A, B, indices, multiplicity = problem(13, 7, 3, 40)
    A, B = A.bfloat16(), B.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value, grad_A, grad_B = matrix_penalty(A, B, encode(indices, 91), multiplicity, 0.3)
    assert value.dtype == grad_A.dtype == grad_B.dtype == torch.float32
    expected_A, expected_B = gradient_by_hand(A, B, indices, multiplicity, 0.3)
    torch.testing.assert_close(value.item(), by_hand(A, B, indices, multiplicity, 0.3), **TOLERANCE)
    torch.testing.assert_close(grad_A.double(), expected_A, **TOLERANCE)
    torch.testing.assert_close(grad_B.double(), expected_B, **TOLERANCE)


def test_autograd_function_scales_the_gradient(evaluator):
    A, B, indices, multiplicity = problem(6, 5, 2, 9)
    A.requires_grad_(), B.requires_grad_()
    (3 * MatrixPenalty.apply(A, B, encode(indices, 30), multiplicity, 0.5) ** 2).backward()
    value = by_hand(A, B, indices, multiplicity, 0.5)
    expected_A, expected_B = gradient_by_hand(A.detach(), B.detach(), indices, multiplicity, 0.5)
    torch.testing.assert_close(A.grad.double(), 6 * value * expected_A, **TOLERANCE)
    torch.testing.assert_close(B.grad.double(), 6 * value * expected_B, **TOLERANCE)


def test_both_ways_agree_at_a_size_where_either_may_be_taken():
    A, B, indices, multiplicity = problem(700, 800, 4, 11200)
    dense = penalty._in_tiles(A, B, indices, multiplicity)
    sparse = penalty._at_positions(A, B, indices, multiplicity)
    for one, other in zip(dense, sparse, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-3)
