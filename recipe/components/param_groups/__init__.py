"""Parameter groups: called once as `groups(model, **settings)`, each with options of its own.

Returns a list of dicts: `params` (a list of parameters), `name` (for the metric lr/<name>),
optionally `rule` (what matched), and any option of the optimizer (lr, weight_decay, betas, ...);
options left out are the optimizer's. Every parameter of the model is in exactly one group; the
engine leaves the frozen ones out of the optimizer.
"""
