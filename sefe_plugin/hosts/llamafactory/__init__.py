"""LLaMA-Factory: its start-up, arguments, adapter, data and training, each changed at one named anchor.

Example: without the start-up hook, in a script that calls LLaMA-Factory itself::

    import sefe_plugin.hosts.llamafactory as plugin

    plugin.apply()
    run_exp({"cl_method": ..., "stage": "sft", ...})
    plugin.undo()
"""


def apply() -> list[str]:
    """Change LLaMA-Factory now, with `SEFE_PLUGIN_DISABLE=1` too; patches that are switched off by name are left out.

    Returns:
        The names of the applied patches (`docs/patches.md`).

    Raises:
        HostChangedError: If this version of LLaMA-Factory is not the one that the patches are for.
        ValueError: If SEFE_PLUGIN_DISABLE names a patch that does not exist.
    """
    from sefe_plugin.hosts.llamafactory import patch_table

    return patch_table.apply()


def undo() -> None:
    """Take all changes back, the start-up hook's too."""
    from sefe_plugin.hosts.llamafactory import patch_table

    patch_table.undo()
