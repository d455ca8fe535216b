"""LoTA: sparse full fine-tuning, each task in weights that no earlier one has changed."""
