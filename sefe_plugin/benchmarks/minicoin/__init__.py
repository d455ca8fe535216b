"""Mini-CoIN: eight small tasks in CoIN's formats, and a tiny LLaVA that a CPU trains on them in minutes."""
