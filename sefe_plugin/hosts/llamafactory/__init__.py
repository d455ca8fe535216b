"""LLaMA-Factory: its start-up, arguments, adapter, data and training, each changed at one named anchor."""
