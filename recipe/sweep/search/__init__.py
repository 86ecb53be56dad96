"""`search`: the best settings, looked for by Optuna, trial by trial.

A trial is a choice of settings; it is run once for every seed, and its value is the mean over them.
The study is kept by Optuna, in a database of its own; `sweep.json` has for every job the `trials`
it belongs to, besides what any sweep's has, and `search` says how it is searched. Nothing here
imports Optuna before it is needed.
"""
