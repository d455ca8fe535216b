"""A real small language model, and text tasks in which it can lose an answer style."""
