"""Clip: called as `clip(params, **settings)` after every backward pass; changes gradients in place.

`params` is a list of the optimizer's own parameters that have a gradient (unscaled).
Returns the total norm of all gradients before clipping, shape (); or that and whether
any gradient was changed, shape (), bool. For a part that returns the norm alone the
engine finds out by measuring again afterwards, which costs two passes over the gradients.
A clip marked with `@needs_model` (recipe.components.contract) is called once, as
`clip(model, **settings)` with the plain model, and returns the function that is called as above.

`@audit(clip)` registers `function(params, **settings)` (`function(params, model, **settings)` for a
clip that needs the model): yields what is wrong with clipped gradients, one line each. It is called
in a few steps of every run.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Clip = Callable[[list[nn.Parameter]], tuple[Tensor, Tensor]]
