"""The memory that preparing many records takes: it hardly grows with their number."""

import json
import os
import subprocess
import sys

import pytest
from published_files import picture


CODE = """
import json, sys
from pathlib import Path
from sefe_plugin.benchmarks.dcl import DCL_TABLE
from sefe_plugin.benchmarks.published.convert import prepare
def peak():  # KiB; unlike ru_maxrss, of this program alone, not of the one that started it
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
import PIL.JpegImagePlugin
before = peak()
manifest = prepare(DCL_TABLE, Path(sys.argv[1]), Path(sys.argv[2]))
written = sum(part["written"] for task in manifest["tasks"].values() for part in task.values())
print(written, peak() - before)
"""


def write_records(folder, size: int, num_images: int) -> None:
    """Write MLLM-DCL with `size` records on as many or fewer images: links to a few small files."""
    each, some = size // 5, num_images // 5
    for task in ("RS", "Med", "AD", "Sci", "Fin"):
        images = folder / task / "images"
        images.mkdir(parents=True)
        first = None
        for i in range(some):
            if i % 20_000 == 0:  # a file has so many links at most
                first = images / f"{i}.jpg"
                first.write_bytes(picture(i, (8, 8)))
            else:
                os.link(first, images / f"{i}.jpg")
        question, tests = "What is shown here, and where? " * 8, each // 6
        records = [
            {
                "id": i,
                "image": f"images/{i % some}.jpg",
                "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": f"word {i}"}],
            }
            for i in range(each - tests)
        ]
        (folder / task / "train.json").write_text(json.dumps(records))
        records = [
            {"question_id": i, "image": f"images/{i % some}.jpg", "text": question, "answer": f"word {i}"}
            for i in range(each - tests, each)
        ]
        (folder / task / "test.json").write_text(json.dumps(records))


@pytest.mark.parametrize(
    ("size", "num_images"), [(24_000, 1_000), pytest.param(240_000, 240_000, marks=pytest.mark.slow)]
)
def test_memory_hardly_grows_with_the_number_of_records(tmp_path, size, num_images):
    write_records(tmp_path / "in", size, num_images)
    result = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "in"), str(tmp_path / "out")],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    written, grown = map(int, result.stdout.split()[-2:])
    assert written == size
    # KiB: 240,000 records are 80 MB of JSON
    assert grown < 40_000
