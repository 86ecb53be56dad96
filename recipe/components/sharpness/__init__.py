"""Sharpness: called as `sharpness(params, recompute_gradients, **settings)` after a backward pass.

`params` is a list of the optimizer's parameters that have a gradient (scaled, if the precision
scales the loss). `recompute_gradients()` replaces the gradients by those of the same batch at the
current weights, with the same augmentation and dropout masks; BatchNorm statistics and random
streams stay as the first pass left them. On return, the weights must be bit-identical to those
before; the gradients at that point are unscaled, clipped and used for the step.
"""
