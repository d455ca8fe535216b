"""A real small language model that no hub is needed for."""
