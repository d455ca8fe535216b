"""Loads the plugin into plain `llamafactory-cli`, which has no plugin entry points.

`sefe_plugin.pth` in site-packages calls `install` at every interpreter start. That only puts a finder in front of
`sys.meta_path`; nothing else is imported until LLaMA-Factory itself imports one of the modules in `ANCHORS`. Right
after such a module has run, `sefe_plugin.hosts.llamafactory.patch_table` changes it. `SEFE_PLUGIN_DISABLE=1` switches
all of it off, `SEFE_PLUGIN_DISABLE=NAME,NAME` single patches. (Python 3.18 reads `sefe_plugin.start` instead of the
`.pth` line, PEP 829.)
"""

import sys


#: The modules of LLaMA-Factory that `patch_table.TABLE` changes; written here too, since reading the table costs time.
ANCHORS = (
    "llamafactory.cli",
    "llamafactory.launcher",
    "llamafactory.v1.launcher",
    "llamafactory.hparams.model_args",
    "llamafactory.hparams.finetuning_args",
    "llamafactory.hparams.data_args",
    "llamafactory.hparams.parser",
    "llamafactory.model.loader",
    "llamafactory.model.adapter",
    "llamafactory.data.loader",
    "llamafactory.train.sft.trainer",
    "llamafactory.train.tuner",
)


class _PatchingLoader:
    """The module's own loader, with the module's patches applied after it has run."""

    def __init__(self, loader):
        self._loader = loader

    def __getattr__(self, name):  # get_code, get_source, is_package and so on, as runpy and inspect use them
        return getattr(self._loader, name)

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        from sefe_plugin.hosts.llamafactory import patch_table

        patch_table.apply_to(module)


class AnchorFinder:
    """Find the modules in `ANCHORS` as usual and wraps their loaders."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        """Return the spec with a patching loader for an anchor, None for every other module."""
        if name not in ANCHORS:
            return None
        for finder in sys.meta_path:
            if finder is AnchorFinder:
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                spec.loader = _PatchingLoader(spec.loader)
                return spec
        return None


def install() -> None:
    """Put the finder in place, once, unless SEFE_PLUGIN_DISABLE switches it off (as `sefe_plugin.patching` has it)."""
    import os

    if os.environ.get("SEFE_PLUGIN_DISABLE", "0").strip().lower() not in ("1", "true", "yes", "y", "on"):
        insert()


def insert() -> None:
    """Put the finder in place, once."""
    if AnchorFinder not in sys.meta_path:
        sys.meta_path.insert(0, AnchorFinder)


def remove() -> None:
    """Take the finder away."""
    if AnchorFinder in sys.meta_path:
        sys.meta_path.remove(AnchorFinder)
