"""KeepLoRA: each task's adapter in directions that neither the base nor an earlier task depends on."""
