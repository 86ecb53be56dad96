"""Scheduler: how every parameter group's learning rate moves; the ratio between groups is kept.

What a part is called with is told by the name of its first parameter:

- `factor(progress, **settings) -> float`: a pure function of how much of the run is done,
  from 0 (the first step) towards 1, which the last epoch or step ends but doesn't begin with; each
  group's own learning rate is multiplied by it.
- `part(optimizer, **settings) -> torch.optim.lr_scheduler.LRScheduler`, which may also take
  `total`, the number of times it will be moved in this run.

Two settings are the engine's own: `per` (`epoch` or `step`) says when it moves, always after
the optimizer; `monitor` names the metric handed to a scheduler that wants one.
"""
