"""Clip: called as `clip(params, **settings)` after every backward pass; changes gradients in place.

`params` is a list of the optimizer's parameters that have a gradient (unscaled). Returns the total
norm of all gradients before clipping, shape (); or the norm and whether any gradient was changed,
shape (), bool. For a clip that returns only the norm, the engine measures the gradients again,
which costs two passes over them.

A clip marked with `@needs_model` (recipe.components.contract) is called once, as
`clip(model, **settings)` with the plain model, and returns the function that is called as above.

`@audit(clip)` registers `function(params, **settings)` (`function(params, model, **settings)` for a
clip that needs the model), which yields a line for each problem of clipped gradients. It is called
in a few steps of every run.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Clip = Callable[[list[nn.Parameter]], tuple[Tensor, Tensor]]
