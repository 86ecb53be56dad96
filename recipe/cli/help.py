"""`recipe --help` and `recipe --version`."""

from __future__ import annotations

from recipe import __version__, output
from recipe.config import option_files
from recipe.config.groups import GROUPS

USAGE = """\
python -m recipe [key=value ...]         trains and records one run, or resumes a killed one
python -m recipe -m key=a,b [...]        a sweep: one run for each combination of values
torchrun --nproc-per-node 2 -m recipe [key=value ...]  one run on two processes
python -m recipe ablate key=value [...]  which trick helps: the chosen ones on and off, per seed;
                                         arguments: [yes=true]
                                         [plan=both|add_one|leave_one_out|factorial]
python -m recipe search key=a,b key='interval(0.1, 1)' [seed=0,1] [trials=20] [...]
                                         optimises settings with Optuna; arguments: trials,
                                         metric, sampler, pruner, startup, warmup, storage, yes
python -m recipe compare [SWEEP] [--baseline clip=none] [--metric val/accuracy]
                                         which trick helped, how certain is that, and its cost;
                                         SWEEP, or --sweep SWEEP: an id, its first characters, a
                                         name, or all for every recorded run; default: the newest
python -m recipe plan [key=value ...]    prints what would run, without training
python -m recipe find-lr [key=value ...] [from=1e-6] [to=10] [steps=100]
                                         suggests a learning rate by a learning-rate range test
python -m recipe tricks [clip|clip=agc]  lists every option; the card of one option: what it does,
                                         its settings, and what it costs
python -m recipe predict run=<id> input=<image or folder> [top=3] [--output csv|json]
python -m recipe ui [SWEEP] [port=5000]  serves MLflow's page of a sweep (default: the newest) and
                                         of all runs at 127.0.0.1; open=true opens a browser

python -m recipe status [resume=true]    lists unfinished runs and closes stale ones; resume=true
                                         resumes them
python -m recipe status <sweep>          a sweep's variants by seeds, and the estimated time left
python -m recipe resume <id> [key=value ...]  resumes a stopped run bit-identically
python -m recipe replay <id> [key=value ...]  repeats a recorded run and compares the numbers
python -m recipe diff <id> <id>          the differences between two recorded runs
python -m recipe prune [RUN or SWEEP] [keep=1] [yes=true]
                                         lists the checkpoints that finished runs no longer need;
                                         yes=true removes them
python -m recipe sync [tracking.uri=...] sends records that MLflow lacks
python -m recipe spec=<spec.yaml>        trains the spec in a recorded run's spec.yaml

group=option chooses an option (* is the default), group.setting=value changes a setting of it:
"""


def print_help() -> int:
    lines = [USAGE]
    defaults = option_files.get_default_options()
    for group in (*GROUPS, "experiment"):
        found = option_files.find_options(group)
        if not found:
            continue
        lines.append(group)
        width = max(map(len, found))
        for name, option in found.items():
            mark = "*" if name == defaults.get(group) else " "
            lines.append(f"{mark} {name:{width}}  {option.description}")
    lines.append("\nsettings of the run, and their defaults:")
    _, own, _ = (
        (option_files.builtin_conf_dir() / "config.yaml").read_text(encoding="utf-8").split("\n\n")
    )
    output.print_text("\n".join([*lines, own, ""]))
    return 0


def print_version() -> int:
    output.print_text(f"recipe {__version__}\n")
    return 0
