"""Datasets of the host as they lie on disk: layouts, records and test sets."""
