"""Parameter groups: called once as `groups(model, **settings)`; returns the optimizer's groups.

The result is a list of dicts with `params` (a list of parameters), `name` (for the metric
lr/<name>), optionally `rule` (what matched), and any options of the optimizer (lr, weight_decay,
betas, ...), which otherwise are the optimizer's. Each parameter of the model must be in exactly one
group; the engine removes frozen parameters before the optimizer gets them.
"""
