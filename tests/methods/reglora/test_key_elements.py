import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sefe_plugin.methods.reglora import key_elements
from sefe_plugin.methods.reglora.key_elements import draw_key_elements, find_key_elements, key_count


def factors(rows, cols, rank, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, cols, generator=generator), torch.randn(rows, rank, generator=generator)


def top(dense, count):
    """The positions of the largest absolute values, by a full sort; of equal ones the first."""
    return sorted(sorted(range(dense.numel()), key=lambda p: (-abs(dense.flatten()[p].item()), p))[:count])


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 5, 2), (40, 30, 4), (30, 41, 8)])
@pytest.mark.parametrize("ratio", [0.001, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("tile", [1, 64, 2**20])
def test_equals_a_full_sort_in_double_precision(monkeypatch, shape, ratio, tile):
    monkeypatch.setattr(key_elements, "TILE_ELEMENTS", tile)
    A, B = factors(*shape)
    found = find_key_elements(A, B, ratio)
    assert found.dtype == torch.int64
    assert found.tolist() == top(B.double() @ A.double(), key_count(ratio, *shape[:2]))


@pytest.mark.parametrize("tile", [1, 6, 12, 2**20])
@pytest.mark.parametrize("count", range(1, 25))
def test_of_equal_values_the_first_are_taken(monkeypatch, tile, count):
    monkeypatch.setattr(key_elements, "TILE_ELEMENTS", tile)
    A = torch.tensor([[1.0, -1.0, 2.0, 1.0, 0.0, -2.0]])
    B = torch.tensor([[1.0], [-1.0], [0.0], [1.0]])
    assert find_key_elements(A, B, count / 24).tolist() == top(B @ A, key_count(count / 24, 4, 6))


def test_bfloat16_factors_are_multiplied_in_fp32():
    A, B = (factor.bfloat16() for factor in factors(40, 30, 8))
    assert find_key_elements(A, B, 0.1).tolist() == top(B.double() @ A.double(), 120)


def test_the_dense_product_never_exists(monkeypatch):
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.numel = max(self.numel, result.numel())
            return result

    monkeypatch.setattr(key_elements, "TILE_ELEMENTS", 4000)
    monkeypatch.setattr(key_elements, "_SAMPLE", 1000)
    A, B = factors(400, 200, 4)
    with Largest() as largest:
        find_key_elements(A, B, 0.02)
    assert largest.numel <= 4000 + 2 * key_count(0.02, 400, 200)


@pytest.mark.parametrize("shape", [(300, 200, 3), (200, 300, 8)])
@pytest.mark.parametrize("ratio", [0.0005, 0.02, 0.3, 0.9999])
def test_a_foreseen_bar_changes_nothing(monkeypatch, shape, ratio):
    monkeypatch.setattr(key_elements, "TILE_ELEMENTS", 7000)
    A, B = factors(*shape)
    count = key_count(ratio, *shape[:2])
    expected = (B @ A).abs().flatten().topk(count).indices.sort().values  # no two values are equal here
    assert torch.equal(find_key_elements(A, B, ratio), expected)
    monkeypatch.setattr(key_elements, "_SAMPLE", 2**30)  # so large that nothing is drawn
    assert torch.equal(find_key_elements(A, B, ratio), expected)


def test_a_bar_foreseen_too_high_is_given_up(monkeypatch):
    A, B = factors(60, 50, 3)
    expected = find_key_elements(A, B, 0.02)
    monkeypatch.setattr(key_elements, "_foreseen_bar", lambda *_: (B @ A).abs().max().item())
    assert torch.equal(find_key_elements(A, B, 0.02), expected)


def test_the_drawn_elements_foresee_a_bar_a_little_below_the_last_key_element():
    A, B = factors(800, 900, 8)
    change, count = (B @ A).abs(), key_count(0.02, 800, 900)
    above = (change > key_elements._foreseen_bar(A, B, count)).sum()
    assert count < above < 2 * count


@pytest.mark.parametrize("count", [1, 100, 59_999, 60_000])
def test_equal_values_everywhere_need_no_more_memory(monkeypatch, count):
    monkeypatch.setattr(key_elements, "TILE_ELEMENTS", 7000)
    A, B = torch.ones(1, 300), torch.ones(200, 1)
    assert torch.equal(find_key_elements(A, B, count / 60_000), torch.arange(count))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_refuses_what_is_not_finite(bad):
    A, B = factors(4, 4, 2)
    B[2, 0] = bad
    with pytest.raises(ValueError, match="not finite in rows 0 to 3"):
        find_key_elements(A, B, 0.5)


@pytest.mark.parametrize("ratio", [0.001, 0.02, 0.5, 1.0])
def test_as_many_are_drawn_as_are_found_whatever_their_values(ratio):
    A, B = factors(130, 90, 4)
    drawn = draw_key_elements(A, B, ratio, "a")
    assert drawn.dtype == torch.int64
    assert len(drawn) == key_count(ratio, 130, 90) == len(find_key_elements(A, B, ratio))
    assert (drawn.diff() > 0).all()
    assert 0 <= drawn[0] <= drawn[-1] < 130 * 90
    assert torch.equal(draw_key_elements(-2 * A, B[:, torch.tensor([1, 0, 2, 3])], ratio, "a"), drawn)
    assert torch.equal(draw_key_elements(A, B, ratio, "b"), drawn) == (ratio == 1.0)


def test_every_element_is_drawn_equally_often():
    A, B = factors(10, 20, 2)
    times = torch.zeros(200)
    for stream in range(2000):
        times[draw_key_elements(A, B, 0.1, str(stream))] += 1
    # 200 expected, binomial with standard deviation 13.4: five of them hold for all 200 elements but once in 10,000
    assert (times - 200).abs().max() < 5 * 13.4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_drawing_refuses_what_is_not_finite_too(bad):
    A, B = factors(4, 4, 2)
    A[1, 3] = bad
    with pytest.raises(ValueError, match="not finite"):
        draw_key_elements(A, B, 0.5, "a")


def test_count_rounds_down_as_the_official_code_does():
    assert key_count(0.02, 4096, 11008) == 901775
    assert key_count(0.02, 3, 3) == 1
    assert key_count(1.0, 3, 4) == 12


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finds_the_same():
    # Whole numbers have exact products on any device, and many equal ones.
    A, B = (factor.mul(3).round() for factor in factors(500, 700, 8))
    expected = find_key_elements(A, B, 0.02)
    assert torch.equal(find_key_elements(A.cuda(), B.cuda(), 0.02).cpu(), expected)
