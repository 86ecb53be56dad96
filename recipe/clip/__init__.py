"""Clip: called as `clip(params, **settings)` after every backward pass; changes gradients in place.

`params` is a list of the optimizer's own parameters that have a gradient (unscaled).
Returns the total norm of all gradients before clipping, shape (); or that and whether
any gradient was changed, shape (), bool. For a part that returns the norm alone the
engine finds out by measuring again afterwards, which costs two passes over the gradients.
"""
