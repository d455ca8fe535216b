"""From predictions to scores, metrics and the report of a run."""
