"""What --help shows."""

from __future__ import annotations

from recipe import __version__, output
from recipe.config import option_files
from recipe.config.groups import GROUPS

USAGE = """\
python -m recipe [key=value ...]         train one run and record it; a killed one is resumed
python -m recipe -m key=a,b [...]        a sweep: every combination, each a run of its own
torchrun --nproc-per-node 2 -m recipe [key=value ...]  one run, shared by two processes
python -m recipe ablate key=value [...]  which trick helps: the chosen ones on and off, per seed;
                                         own arguments: [yes=true]
                                         [plan=both|add_one|leave_one_out|factorial]
python -m recipe search key=a,b key='interval(0.1, 1)' [seed=0,1] [trials=20] [...]
                                         the best settings, by Optuna; own arguments: trials,
                                         metric, sampler, pruner, startup, warmup, storage, yes
python -m recipe compare [SWEEP] [--baseline clip=none] [--metric val/accuracy]
                                         which trick helped, how sure is that, what did it cost?
                                         SWEEP, or --sweep SWEEP: an id, its beginning, a name or
                                         all, every recorded run; else the newest sweep
python -m recipe plan [key=value ...]    what would run, without training
python -m recipe find-lr [key=value ...] [from=1e-6] [to=10] [steps=100]
                                         a learning rate for it, by a short test of rising ones
python -m recipe tricks [clip|clip=agc]  every option with one line; the card of one: what it does,
                                         its settings, what it costs, what your own runs say of it
python -m recipe predict run=<id> input=<image or folder> [top=3] [--output csv|json]
python -m recipe ui [SWEEP] [port=5000]  MLflow's page of a sweep, the newest one by default, and of
                                         all recorded runs, at 127.0.0.1; open=true opens a browser

python -m recipe status [resume=true]    runs that aren't finished; closes those that died, and with
                                         resume=true resumes them
python -m recipe status <sweep>          its variants by seeds, what is left, and for how long
python -m recipe resume <id> [key=value ...]  resumes a stopped run, bit for bit
python -m recipe replay <id> [key=value ...]  a recorded run once more; do its numbers agree?
python -m recipe diff <id> <id>          what differed between two recorded runs
python -m recipe prune [RUN or SWEEP] [keep=1] [yes=true]
                                         the checkpoints that finished runs need no more: how much
                                         they take; with yes=true removes them
python -m recipe sync [tracking.uri=...] sends MLflow what it lacks of the record
python -m recipe spec=<spec.yaml>        train what a recorded run's spec.yaml says, as it is

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
    lines.append("\nsettings of the whole run, and their defaults:")
    _, own, _ = (
        (option_files.builtin_conf_dir() / "config.yaml").read_text(encoding="utf-8").split("\n\n")
    )
    output.print_text("\n".join([*lines, own, ""]))
    return 0


def print_version() -> int:
    output.print_text(f"recipe {__version__}\n")
    return 0
