"""Freeze: called once as `freeze(model, **settings)`; sets requires_grad on the parameters.

May return a timetable, `{epoch: [parameter names]}`: what is to be trained again from the
start of that epoch (the first epoch is 0). One setting is the engine's own: `batchnorm`, what
BatchNorm layers do whose own parameters (or, without any, those of the layer before) are frozen:

- `eval`: nothing of the layer learns; it normalises by its running statistics.
- `train`: it normalises by the batch and its running statistics go on moving, which is
  what requires_grad=False alone does; weight and bias stay.
- `affine_only`: only weight and bias learn; it normalises by its running statistics, which stay.
"""
