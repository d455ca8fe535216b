"""What a sequence will take, worked out before anything starts: steps, tokens, GPU memory and disk.

Everything here is arithmetic on plain numbers; `hosts/llamafactory/architecture.py` and `lengths.py` measure them.
"""
