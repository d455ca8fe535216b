"""CoIN, the eight-task benchmark of SEFE, in the order and layout of the official repositories.

`dataset_dir` (default `data/coin`) is what `sefe prepare coin` wrote, or the official layout itself:
`annotations/<Task>/train.json` and `annotations/<Task>/test.json`, and the images where the annotations' relative
paths lead, as in `playground/data/CoIN` of the SEFE repository.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from sefe_plugin.benchmarks.coin.tasks import COIN, TASKS
from sefe_plugin.benchmarks.published.benchmark import PublishedBenchmark


__all__ = ["COIN", "TASKS", "CoIN"]


class CoIN(PublishedBenchmark):
    """CoIN's tasks, and its official rules."""

    published = COIN
    own_layout = "annotations/{task}/{split}.json"

    def official_accuracy(self, rule: str) -> Callable[[Sequence[Mapping]], float]:
        """Return the rule of one of the official scripts, by the name of its task."""
        from sefe_plugin.benchmarks.coin.official import official_accuracy

        return partial(official_accuracy, rule)
