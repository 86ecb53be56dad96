"""Clip: called as `clip(params, **settings)` after every backward pass; changes gradients in place.

`params` is a list of the optimizer's own parameters that have a gradient (unscaled).
Returns the total norm of all gradients before clipping, shape (); or that and whether
any gradient was changed, shape (), bool. For a part that returns the norm alone the
engine finds out by measuring again afterwards, which costs two passes over the gradients.
A part whose first parameter is called `model` is called once, with the plain model, and returns
the function that is then called as above.

Beside a part `name` may stand `audit_name(params, **settings)` in its module (where the part is
made with the model, `audit_name(params, model, **settings)`): what is wrong with gradients that
were clipped, one line each. It is asked in a few steps of every run.
"""
