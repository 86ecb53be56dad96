"""Stop: called as `stop(accuracies, **settings) -> bool` after the evaluation of each epoch.

`accuracies` holds val/accuracy (from 0 to 1) of all epochs so far, in order. True ends the run
after this epoch. Must be a pure function, so that a resumed run stops at the same epoch. Learning
rate schedules always have the length of the full run.
"""
