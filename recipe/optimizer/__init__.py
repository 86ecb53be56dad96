"""Optimizer: torch's own class, called once as `optimizer(parameter groups, **settings)`.

Any torch.optim.Optimizer with the same call does.
"""
