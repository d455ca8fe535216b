"""The loop over the tasks of a sequence, the steps of a task, and the folder of a run."""
