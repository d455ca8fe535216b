"""`report.html`: a run's report as one page that stands alone, with a browser of its answers."""
