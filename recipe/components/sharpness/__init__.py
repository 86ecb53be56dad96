"""Sharpness: called as `sharpness(params, again, **settings) -> None` after each backward pass.

`params` is a list of the optimizer's parameters that have a gradient (scaled, if the precision
scales the loss). `again()` replaces the gradients by those of the same batch at the current
weights, with the same augmentation and dropout masks; BatchNorm statistics and random streams stay
as the first pass left them. On return, each weight must be bit-identical to what it was before; the
gradients at that point are unscaled, clipped and used for the step.
"""
