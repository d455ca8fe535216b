# ruff: noqa: N803 - A and B are the names of the factors in the papers
"""Measure RegLoRA's penalty, its memory and its key elements at the shapes of LLaVA-1.5-7B, rank 128, M = 2 %.

    python tests/benchmarks/bench_reglora.py [--quick] [--device cpu|cuda] [--fused] [--shrink N] --json FILE

On a CPU the seven matrices of one decoder layer are measured, on a GPU all 224 of the model. A and B are random; the
key elements are those of other random A and B. Times are the least of several rounds in which all ways take turns, so
that ratios do not depend on what else the machine does. `--shrink` divides the sizes of all matrices and the rank: a
rehearsal, whose ratios say nothing.
"""

import argparse
import ctypes
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from sefe_plugin.methods.reglora.codec import decode, encode
from sefe_plugin.methods.reglora.files import KeyElements, read_key_elements, write_key_elements
from sefe_plugin.methods.reglora.key_elements import find_key_elements, key_count
from sefe_plugin.methods.reglora.penalty import matrix_penalty
from sefe_plugin.methods.reglora.union import KeyUnion


RANK, RATIO, LAYERS = 128, 0.02, 32
#: (out_features, in_features) -> how many of them a decoder layer has: q, k, v, o; gate, up; down.
LAYER = {(4096, 4096): 4, (11008, 4096): 2, (4096, 11008): 1}
#: Ways to compute value and gradient.
WAYS = ("ours", "dense_reference", "gemm_floor", "olora")


def factors(shape: tuple[int, int], rank: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Random A and B."""
    return torch.randn(rank, shape[1], device=device), torch.randn(shape[0], rank, device=device)


def ways_to_penalise(
    A: torch.Tensor, B: torch.Tensor, union: KeyUnion, lists: torch.Tensor, earlier_A: torch.Tensor, fused: bool
) -> dict[str, Callable]:
    """Value and gradient of one matrix, in every way; `lists` holds (row, column) of all tasks, int64.

    With `fused`, ours is that with Triton's kernels.
    """
    A_leaf, B_leaf = A.clone().requires_grad_(), B.clone().requires_grad_()
    G = torch.randn(len(B), A.shape[1], device=A.device)

    def dense_reference():
        A_leaf.grad = B_leaf.grad = None
        change = B_leaf @ A_leaf
        change[lists[:, 0], lists[:, 1]].abs().mean().backward()

    def olora():
        A_leaf.grad = None
        (A_leaf @ earlier_A.T).abs().sum().backward()

    def gemm_floor():
        B @ A, B.T @ G, G @ A.T

    def ours():
        matrix_penalty(A, B, union, 1.0, fused)

    return {"ours": ours, "dense_reference": dense_reference, "gemm_floor": gemm_floor, "olora": olora}


def seconds(calls: dict[str, Callable], rounds: int, device: str) -> dict[str, float]:
    """The least time of every call over some rounds in which they take turns."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            synchronize(device)
            start = time.perf_counter()
            call()
            synchronize(device)
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def synchronize(device: str) -> None:
    """Wait for the GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def extra_peak(call: Callable, device: str) -> float:
    """Peak memory of a call above that before it, results included, in MiB."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    ctypes.CDLL(None).malloc_trim(0)  # else freed memory is used again, unnoticed
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark of the resident set
    before = resident_set("VmRSS")
    call()
    return (resident_set("VmHWM") - before) / 2**10


def resident_set(entry: str) -> int:
    """An entry of the process's memory in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry))


def measure_shape(
    shape: tuple[int, int], rank: int, numbers: tuple[int, ...], rounds: int, device: str, fused: bool
) -> dict:
    """All figures of one matrix: finding and loading, and per number of earlier tasks the penalty."""
    numel, count = shape[0] * shape[1], key_count(RATIO, *shape)
    adapters = [factors(shape, rank, device) for _ in range(max(numbers))]
    codes = [encode(find_key_elements(A, B, RATIO), numel) for A, B in adapters]
    A, B = factors(shape, rank, device)
    finding = {
        "find": lambda: find_key_elements(A, B, RATIO),
        "full_topk": lambda: (B @ A).abs_().flatten().topk(count),
    }
    figures = {"find": seconds(finding, rounds, device), "tasks": {}}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "task.safetensors")
        write_key_elements(KeyElements(file, RATIO, {"matrix": shape}, {"matrix": codes[0]}, "0" * 64))
        figures["bytes_per_element_disk"] = file.stat().st_size / count
        figures["find"].update(seconds({"read_file": lambda: read_key_elements(file)}, rounds, device))
    for number in numbers:
        union = KeyUnion.of_tasks(codes[:number], shape, A.device)
        flat = torch.cat([decode(task, numel) for task in codes[:number]])
        lists = torch.stack([flat // shape[1], flat % shape[1]], 1)
        earlier_A = torch.cat([earlier for earlier, _ in adapters[:number]])
        ways = ways_to_penalise(A, B, union, lists, earlier_A, fused)
        ways["ours"]()  # compiles the kernels, if any
        peak = extra_peak(ways["ours"], device)
        load = {"load": lambda number=number: KeyUnion.of_tasks(codes[:number], shape, A.device)}
        figures["tasks"][number] = {
            **seconds(ways, rounds, device),
            **seconds(load, 1, device),
            "bytes_per_element_resident": len(union.codes) / (count * number),
            "extra_peak_mb": peak,
        }
        print(shape, number, figures["tasks"][number], flush=True)
    return figures


def summarise(shapes: dict[tuple[int, int], dict], layer: dict, number: int, device: str) -> dict:
    """The figures of a layer (CPU) or of the model (GPU) at one number of earlier tasks, the issue of ratios."""
    times = LAYERS if device == "cuda" else 1
    weights = {shape: layer[shape] * times for shape in shapes}
    elements = {shape: key_count(RATIO, *shape) for shape in shapes}

    def total(value: Callable) -> float:
        return sum(weights[shape] * value(shape) for shape in shapes)

    def mean(value: Callable) -> float:
        return total(lambda shape: elements[shape] * value(shape)) / total(elements.get)

    time_of = {way: total(lambda shape, way=way: shapes[shape]["tasks"][number][way]) for way in (*WAYS, "load")}
    found, full = (total(lambda shape, way=way: shapes[shape]["find"][way]) for way in ("find", "full_topk"))
    return {
        "bytes_per_element_disk": mean(lambda shape: shapes[shape]["bytes_per_element_disk"]),
        "bytes_per_element_resident": mean(lambda shape: shapes[shape]["tasks"][number]["bytes_per_element_resident"]),
        "time_over_dense_reference": time_of["ours"] / time_of["dense_reference"],
        "time_over_gemm_floor": time_of["ours"] / time_of["gemm_floor"],
        "time_over_olora": time_of["ours"] / time_of["olora"],
        "extra_peak_mb": max(shapes[shape]["tasks"][number]["extra_peak_mb"] for shape in shapes),
        "find_over_full_topk": found / full,
        "seconds": {**time_of, "find": found, "full_topk": full},
        "matrices": sum(weights.values()),
    }


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="only 7 earlier tasks of a 4096 x 4096 matrix, two rounds"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--fused", action="store_true", help="ours with Triton's kernels; needs a GPU")
    parser.add_argument("--shrink", type=int, default=1, help="divide the sizes by this, at most 16")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    torch.manual_seed(0)
    numbers, rounds = ((7,), 2) if options.quick else ((1, 3, 7, 15), 3)
    rank = RANK // options.shrink
    layer = {(rows // options.shrink, cols // options.shrink): count for (rows, cols), count in LAYER.items()}
    measured = {
        shape: measure_shape(shape, rank, numbers, rounds, options.device, options.fused)
        for shape in (list(layer)[:1] if options.quick else layer)
    }
    device = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
    content = {
        **summarise(measured, layer, 7, options.device),
        "by_number_of_tasks": {number: summarise(measured, layer, number, options.device) for number in numbers},
        "by_shape": {f"{rows}x{cols}": figures for (rows, cols), figures in measured.items()},
        "shrink": options.shrink,
        "fused": options.fused,
        "device": device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
