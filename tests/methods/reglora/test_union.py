import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sefe_plugin.methods.reglora import union
from sefe_plugin.methods.reglora.codec import encode
from sefe_plugin.methods.reglora.union import KeyUnion


CPU = torch.device("cpu")


def times_in_matrix(keys, rows, cols):
    """How many tasks chose each element, from the decoded panels."""
    times = torch.zeros(rows, cols, dtype=torch.int64)
    for panel in keys.decode(CPU):
        assert panel.positions.dtype == torch.int32
        assert panel.times.dtype == torch.uint8
        assert (panel.positions.diff() > 0).all()
        row, col = panel.positions // panel.width, panel.positions % panel.width + panel.start
        assert (row < rows).all()
        times[row, col] += panel.times
    return times


@pytest.fixture(params=[1, 10, 48, 2**20], ids=lambda elements: f"panel{elements}")
def panel_elements(request, monkeypatch):
    monkeypatch.setattr(union, "PANEL_ELEMENTS", request.param)


@given(data=st.data(), rows=st.integers(1, 20), cols=st.integers(1, 60), number=st.integers(1, 6))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("elements", [1, 48, 2**20])
def test_every_element_keeps_its_number_of_tasks(elements, data, rows, cols, number):
    numel = rows * cols
    tasks = [data.draw(st.sets(st.integers(0, numel - 1), min_size=1, max_size=numel)) for _ in range(number)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(union, "PANEL_ELEMENTS", elements)
        keys = KeyUnion.of_tasks([encode(torch.tensor(sorted(task)), numel) for task in tasks], (rows, cols), CPU)
    expected = [[sum(row * cols + col in task for task in tasks) for col in range(cols)] for row in range(rows)]
    assert times_in_matrix(keys, rows, cols).tolist() == expected
    chosen = sum(map(len, tasks))
    assert chosen <= len(keys.codes) <= (248 * chosen + numel) / 247


def test_255_equal_tasks(panel_elements):
    task = encode(torch.tensor([3, 4, 29]), 30)
    keys = KeyUnion.of_tasks([task] * 255, (5, 6), CPU)
    expected = torch.zeros(30, dtype=torch.int64)
    expected[[3, 4, 29]] = 255
    assert torch.equal(times_in_matrix(keys, 5, 6), expected.view(5, 6))


@pytest.mark.parametrize("rank", [2, 16])
def test_one_byte_per_element_and_task_on_real_masks(rank):
    from sefe_plugin.methods.reglora import find_key_elements

    rows, cols, generator = 512, 1024, torch.Generator().manual_seed(0)
    for number in (1, 7, 15):
        tasks = [
            find_key_elements(
                torch.randn(rank, cols, generator=generator), torch.randn(rows, rank, generator=generator), 0.02
            )
            for _ in range(number)
        ]
        codes = [encode(task, rows * cols) for task in tasks]
        elements = sum(map(len, tasks))
        resident = KeyUnion.of_tasks(codes, (rows, cols), CPU)
        assert len(resident.codes) < 1.1 * elements
        assert sum(map(len, codes)) < 1.1 * elements


def test_panels_are_small_and_cover_the_matrix(monkeypatch):
    monkeypatch.setattr(union, "PANEL_ELEMENTS", 2**10)
    for rows, cols in [(1, 5000), (3, 700), (100, 37), (5000, 3)]:
        keys = KeyUnion.of_tasks([encode(torch.arange(rows * cols), rows * cols)], (rows, cols), CPU)
        spans = [(start, start + width) for start, width, _ in keys.panels]
        assert [start for start, _ in spans] == [0, *[stop for _, stop in spans[:-1]]]
        assert spans[-1][1] == cols
        assert all(rows * (stop - start) <= max(2**10, rows) for start, stop in spans)


def test_host_memory_holds_the_same(panel_elements):
    keys = KeyUnion.of_tasks([encode(torch.tensor([1, 7, 22]), 30)], (5, 6), CPU)
    copy = keys.in_host_memory()
    assert copy.codes.device == CPU
    assert torch.equal(times_in_matrix(copy, 5, 6), times_in_matrix(keys, 5, 6))


@pytest.mark.parametrize("decoded_elements", [0, union.DECODED_ELEMENTS])
def test_panels_lie_where_they_are_asked_for(monkeypatch, decoded_elements):
    monkeypatch.setattr(union, "DECODED_ELEMENTS", decoded_elements)
    keys = KeyUnion.of_tasks([encode(torch.tensor([1, 7, 22]), 30)], (5, 6), CPU)
    for device in (CPU, torch.device("meta")):
        (panel,) = keys.decode(device)
        assert panel.positions.device == panel.times.device == device


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("offload", [False, True])
def test_a_gpu_decodes_the_same(offload):
    generator = torch.Generator().manual_seed(0)
    tasks = [torch.randperm(30_000, generator=generator)[:600].sort().values for _ in range(4)]
    codes = [encode(task, 30_000) for task in tasks]
    expected = times_in_matrix(KeyUnion.of_tasks(codes, (300, 100), CPU), 300, 100)
    device = torch.device("cuda", 0)
    keys = KeyUnion.of_tasks(codes, (300, 100), device)
    keys = keys.in_host_memory() if offload else keys
    assert keys.codes.is_pinned() == offload
    times = torch.zeros(300, 100, dtype=torch.int64, device=device)
    for panel in keys.decode(device):
        row, col = panel.positions // panel.width, panel.positions % panel.width + panel.start
        times[row, col] += panel.times
    assert torch.equal(times.cpu(), expected)


@pytest.mark.parametrize(("rows", "cols"), [(4096, 4096), (11008, 4096), (4096, 11008), (3, 5), (2**24, 2)])
def test_panels_of_a_gpu_are_few_and_small(rows, cols):
    width = union._panel_width(rows, cols, torch.device("cuda"))
    assert 1 <= width <= cols
    assert width == 1 or rows * width <= union.GPU_PANEL_ELEMENTS + rows
    assert -(-cols // width) <= max(1, -(-rows * cols // union.GPU_PANEL_ELEMENTS))
