"""Stop: called as `stop(accuracies, **settings) -> bool` after every epoch's evaluation.

`accuracies` is the val/accuracy (a share from 0 to 1) of each epoch so far, the first one first; a
pure function of it, so that a run that is taken up again stops where it would have. True ends the
run after this epoch. Schedules are as long as the run would be with all its epochs.
"""
