"""Benchmarks whose files are published: one table each, and what all of them share.

`tables.py` says what a table holds. `find.py` and `unpack.py` find the files below a download, `records.py` and
`images.py` check them, `convert.py` writes the datasets (`sefe prepare`), and `benchmark.py` runs on what was written.
"""
