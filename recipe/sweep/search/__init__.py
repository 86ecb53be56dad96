"""`search`: the best settings, searched by Optuna trial by trial.

A trial is a choice of settings; it is run once for every seed, and its value is the mean over them.
The study is stored by Optuna; `sweep.json` also has the trial of every job (`trials`) and the
settings of the search (`search`). `arguments` and `dimension` don't import Optuna.
"""
