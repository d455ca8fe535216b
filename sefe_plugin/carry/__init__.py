"""Ways to carry a finished task on, by the names that `carry` takes: what the next task starts from.

Example: after task 1, `merge` writes ``1_charts/merged``, a whole model that is the base of task 2.
"""

from sefe_plugin.carry.base import Carry
from sefe_plugin.carry.ways import Alone, Continue, Merge, Replace, Stack


CARRIES: dict[str, Carry] = {
    "merge": Merge(),
    "stack": Stack(),
    "continue": Continue(),
    "replace": Replace(),
    "none": Alone(),
}
