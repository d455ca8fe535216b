"""Whether two runs have the same results: what a report says beside the times."""

import json
from pathlib import Path


def without_times(report: Path) -> bytes:
    """The bytes of a `report.json` without its ledger, which alone holds times."""
    content = json.loads(report.read_text())
    return json.dumps({key: value for key, value in content.items() if key != "ledger"}).encode()
