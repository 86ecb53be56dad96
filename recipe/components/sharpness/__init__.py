"""Sharpness: called as `sharpness(params, again, **settings) -> None` after each backward pass.

`params` is a list of the optimizer's own parameters that have a gradient (scaled, if the precision
scales the loss). `again()` puts in place of the gradients those that the same batch has with the
weights as they are then: the same augmentation and dropout masks, while the statistics of BatchNorm
layers and the random streams stay as the first pass left them. On return every weight must be what
it was, bit for bit; the gradients that are there are unscaled, clipped and stepped with.
"""
