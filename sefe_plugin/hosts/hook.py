"""Loads the plugin into plain `llamafactory-cli`, which has no plugin entry points.

`sefe_plugin.pth` in site-packages calls `install` at every interpreter start. That only puts a finder in front of
`sys.meta_path`; nothing else is imported until LLaMA-Factory itself imports one of the modules named in `ANCHORS`.
Right after such a module has run, `sefe_plugin.hosts.llamafactory.patches` changes it. `SEFE_PLUGIN_DISABLE=1`
switches all of it off. (Python 3.18 reads `sefe_plugin.start` instead of the `.pth` line, PEP 829.)
"""

import sys


#: LLaMA-Factory module -> function of `sefe_plugin.hosts.llamafactory.patches` that is given the module once it ran.
ANCHORS = {
    "llamafactory.cli": "patch_cli",
    "llamafactory.hparams.model_args": "patch_model_args",
    "llamafactory.hparams.finetuning_args": "patch_finetuning_args",
    "llamafactory.hparams.data_args": "patch_data_args",
    "llamafactory.model.loader": "patch_model_loader",
    "llamafactory.model.adapter": "patch_adapter",
    "llamafactory.data.loader": "patch_loader",
    "llamafactory.train.sft.trainer": "patch_sft_trainer",
    "llamafactory.train.tuner": "patch_tuner",
}


class _PatchingLoader:
    """The module's own loader, with one patch applied after the module has run."""

    def __init__(self, loader, patch: str):
        self._loader = loader
        self._patch = patch

    def __getattr__(self, name):  # get_code, get_source, is_package and so on, as runpy and inspect use them
        return getattr(self._loader, name)

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        from sefe_plugin.hosts.llamafactory import patches

        getattr(patches, self._patch)(module)


class AnchorFinder:
    """Find the modules in `ANCHORS` as usual and wraps their loaders."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        """Return the spec with a patching loader for an anchor, None for every other module."""
        patch = ANCHORS.get(name)
        if patch is None:
            return None
        for finder in sys.meta_path:
            if finder is AnchorFinder:
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                spec.loader = _PatchingLoader(spec.loader, patch)
                return spec
        return None


def install() -> None:
    """Put the finder in place, once, unless SEFE_PLUGIN_DISABLE is set to anything but 0."""
    import os

    if os.environ.get("SEFE_PLUGIN_DISABLE", "0") in ("", "0") and AnchorFinder not in sys.meta_path:
        sys.meta_path.insert(0, AnchorFinder)
