"""The command line: its verbs.

torch and mlflow are imported by the verb that needs them, after the device's environment is set.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from recipe import output
from recipe.cli import help
from recipe.config import option_files
from recipe.config.world_size import World
from recipe.errors import Problems, SpecError
from recipe.runner.exit_status import ended, ignore_signals, leave, listen, status_of

if TYPE_CHECKING:
    from argparse import Namespace

    from hydra.core.override_parser.types import Override

    from recipe.config.spec import RunSpec
    from recipe.runner.console import Console

HYDRA_FLAGS = (
    "--cfg",
    "-c",
    "--info",
    "-i",
    "--shell-completion",
    "-sc",
    "--hydra-help",
)
"""Hydra's own flags, answered by Hydra itself."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command line and exits: 0 done, 1 failed, 2 refused, 130 and 143 killed."""
    output.prepare()
    atexit.register(ignore_signals)  # the first registered, and so the last that is called
    try:
        if World.here().rank == 0:
            output.start_notices()
    except SpecError as error:
        output.error(str(error))
        sys.exit(error.exit_status)
    try:
        status = run(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt as error:  # a second signal, while the first one was reported
        status = status_of(error)
    leave(status)


def run(arguments: list[str]) -> int:
    listen()
    world = World.here()
    if world.size == 1:
        return ended(lambda: _called(arguments))
    from recipe.runner import other_ranks
    from recipe.training import rendezvous

    if world.rank:
        with contextlib.suppress(SpecError):  # the first process prints it
            _import_from_here()
        status = ended(other_ranks.follow, tell=False)
    else:
        status = ended(lambda: _shared(world, arguments))
        rendezvous.dismiss(status)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, where another has ended already
    rendezvous.over()
    return status


def _import_from_here() -> None:
    """Looks for modules in the working directory. Raises SpecError if that was removed."""
    try:
        here = str(Path.cwd())
    except FileNotFoundError as error:
        raise SpecError("the working directory was removed; change to another one") from error
    # the console script, unlike python -m, does not look for modules in the working directory
    if "" not in sys.path and here not in sys.path:
        sys.path.insert(0, here)


def _called(arguments: list[str]) -> int:
    _import_from_here()
    verb, rest = _verb(arguments)
    return verb(rest)


SHARED = ("train", "resume")
"""The verbs for which several processes are of use."""


def _shared(world: World, arguments: list[str]) -> int:
    """In the first of several processes."""
    verb = next((a for a in arguments if a in VERBS or a in ("-m", "--multirun")), "train")
    asks = any(argument in ("-h", "--help") for argument in arguments)
    if verb not in SHARED and not asks:
        sweep = verb in ("-m", "--multirun", "ablate")
        what = "starts runs of its own, so" if sweep else "is done by one process, and"
        rest = " ".join(map(shlex.quote, arguments))
        raise SpecError(
            f"{verb}: it {what} {world.size} processes can't share it; use python -m recipe {rest}"
        )
    return _called(arguments)


def _verb(arguments: list[str]) -> tuple[Callable[[list[str]], int], list[str]]:
    if any(argument in ("-h", "--help") for argument in arguments):
        return help.show, arguments
    if arguments and arguments[0] in VERBS:
        return VERBS[arguments[0]], arguments[1:]
    if arguments and arguments[0].isidentifier():
        raise SpecError(
            f"{arguments[0]}: no such verb{option_files.nearest(arguments[0], VERBS)}; "
            "without a verb, give settings as key=value"
        )
    if "--version" in arguments:
        return help.version, arguments
    if any(argument.split("=")[0] in HYDRA_FLAGS for argument in arguments):
        return _hydra, arguments
    if any(argument in ("-m", "--multirun") for argument in arguments):
        return _multirun, arguments
    return _train, arguments


def _console() -> Console:
    from recipe.runner.console import Console

    return Console()


def _train(arguments: list[str]) -> int:
    problems = Problems()
    spec = _spec(arguments, problems)
    if spec.options["tracking"] != "none":
        from recipe.mlflow_sync import worker_process

        worker_process.started()  # MLflow is imported there while torch is here
    from recipe.runner.execute import execute, prepare, report, report_again

    run = prepare(spec, problems)
    from recipe.runner import earlier_runs, fingerprint
    from recipe.runner import plan as planning

    console = _console()
    console.print(planning.headline(spec, run), soft_wrap=True)
    before = earlier_runs.of(spec, fingerprint.of(spec, run))
    if before.running:
        other = f"Caution another process is running this already, as {before.running.name}"
        console.print(other, style="yellow", soft_wrap=True)
    outcome, recorder = execute(
        spec, run, console, name=spec.label, command=" ".join(arguments), before=before
    )
    report(console, outcome, recorder)
    report_again(console, before, recorder)
    return 0


def _plan(arguments: list[str]) -> int:
    problems = Problems()
    spec = _spec(arguments, problems, _of_one_run("plan"))
    from recipe.runner.execute import prepare

    run = prepare(spec, problems)
    from recipe.runner import component_errors, plan

    console = _console()
    with component_errors.reported(spec, run):
        made = plan.make(spec, run)
        seconds = plan.seconds_per_epoch(run)
    if spec.summary:
        console.print(str(made.summary), soft_wrap=True)
    console.print(plan.describe(made, seconds=seconds))
    return 0


def _find_lr(arguments: list[str]) -> int:
    from recipe.config.key_values import key_values, number
    from recipe.runner.execute import prepare

    known = {"from": "1e-6", "to": "10", "steps": "100"}
    own = [text for text in arguments if text.removeprefix("--").partition("=")[0] in known]
    given, problems = key_values("find-lr", own, known), Problems()
    with problems.collect("find-lr"):
        lowest, highest = (number("find-lr", key, given[key]) for key in ("from", "to"))
        steps = int(number("find-lr", "steps", given["steps"], whole=True))
    problems.raise_any()
    rest = [text for text in arguments if text not in own]
    spec = _spec(rest, problems, _of_one_run("find-lr"))
    run = prepare(spec, problems)
    from recipe.runner.find_lr import find_lr

    with problems.collect("find-lr"):
        find_lr(spec, run, _console(), lowest=lowest, highest=highest, steps=steps, command=rest)
    problems.raise_any()
    return 0


def _of_one_run(verb: str) -> str:
    """What to do with several values where a verb takes one."""
    return f"{verb} takes a single run; give one value, or run all with python -m recipe -m"


def _spec(
    arguments: list[str], problems: Problems, several: str = "several values need a sweep; add -m"
) -> RunSpec:
    """The spec of a single run; what is wrong with the overrides is added to `problems`, and the
    rest of them composed, so that later checks can add theirs. `several`: what to do with several
    values."""
    output.task("reading the command line")
    from recipe.config import compose
    from recipe.config.overrides import check

    if any(argument.startswith("spec=") for argument in arguments):
        return _recorded_spec(arguments)
    overrides = compose.parse(arguments)
    _refuse_several(overrides, several)
    with compose.menu_folder():
        checked = check(overrides)
        problems += checked.problems
        if option_files.user_folder() is None and all(_is_option(o) for o in checked.overrides):
            problems.raise_any()  # of our own options nothing else can be wrong
        (job,) = compose.jobs(checked.overrides)
        spec = job.spec()
    from recipe.config.schema import root_problems

    if not any(_is_setting(override.key_or_group) for override in checked.overrides):
        # what is wrong is told before torch is imported: no other word needs it to be judged
        problems += root_problems(vars(spec))
        problems.raise_any()
    return spec


def _refuse_several(overrides: Sequence[Override], why: str) -> None:
    from recipe.config.overrides import interval_problem

    Problems(
        interval_problem(override, "one value")
        if override.is_interval_sweep()
        else f"{override.input_line}: {why}"
        for override in overrides
        if override.is_sweep_override()
    ).raise_any()


def _is_option(override: Override) -> bool:
    return override.key_or_group in option_files.GROUPS


def _is_setting(key: str) -> bool:
    """Of a part, which alone knows what it may be."""
    group, _, setting = key.partition(".")
    return group in option_files.GROUPS and bool(setting)


def _recorded_spec(arguments: list[str]) -> RunSpec:
    from recipe.config import compose, restrictions
    from recipe.config.key_values import key_values
    from recipe.config.spec import RunSpec

    known = {"spec": "", "trust": "", "output_dir": "", "tracking.uri": ""}
    values = key_values("spec", arguments, known)
    spec = RunSpec.read(Path(values["spec"]).expanduser(), compose.trusted(values["trust"]))
    return restrictions.replayed(
        spec, values["output_dir"], values["tracking.uri"], compose.project()
    )


def _multirun(arguments: list[str]) -> int:
    from recipe.sweep.multirun import multirun

    given = [a for a in arguments if a not in ("-m", "--multirun")]
    return multirun(given, _console(), arguments)


def _ablate(arguments: list[str]) -> int:
    from recipe.sweep.ablation import plan as ablate
    from recipe.sweep.multirun import multirun

    return multirun(ablate.arguments(arguments), _console(), ["ablate", *arguments])


def _search(arguments: list[str]) -> int:
    from recipe.sweep import sweeper_arguments
    from recipe.sweep.multirun import multirun
    from recipe.sweep.search import arguments as asked

    given = sweeper_arguments.arguments("search", "search", asked.OWN, arguments)
    return multirun(given, _console(), ["search", *arguments])


SHOWING = {"cfg", "overrides", "package", "resolve"}
"""What may be given with `--cfg` for us to print what was composed to be checked."""

ASKING = ("cfg", "info", "shell_completion", "hydra_help", "run")
"""What Hydra is asked for; one at a time."""

ELSEWHERE = ("config_path", "config_name", "config_dir", "experimental_rerun")
"""Hydra's flags that read other files than recipe's menu and the user's conf/."""

COMPLETION = tuple(
    f"{command}={shell}"
    for command in ("install", "uninstall", "query")
    for shell in ("bash", "fish", "zsh")
)
"""What `--shell-completion` takes."""


def _hydra(arguments: list[str]) -> int:
    import hydra

    from recipe.config import compose
    from recipe.config.overrides import check

    compose.register_user_options()
    asked = _hydra_arguments(arguments)
    if not asked.shell_completion:
        # Hydra configures logging from what it composes, and logging calls things
        overrides = compose.parse(asked.overrides)
        _refuse_several(overrides, "what Hydra tells is of one run; give one value")
        with compose.menu_folder():
            check(overrides).problems.raise_any()
            for job in compose.jobs(overrides):
                job.spec()
            if asked.cfg and SHOWING.issuperset(key for key, value in vars(asked).items() if value):
                compose.show(asked.cfg, asked.overrides, asked.package, resolve=asked.resolve)
                return 0
    sys.argv = [sys.argv[0], *arguments]
    program, _, typed = os.environ.get("COMP_LINE", "").partition(" ")
    if typed.partition(" ")[0] in VERBS:  # Hydra completes overrides and knows no verbs
        os.environ["COMP_LINE"] = f"{program} {typed.partition(' ')[2]}"
    hydra.main(
        version_base="1.3", config_path=str(option_files.own_folder()), config_name="config"
    )(lambda config: None)()
    return 0


def _hydra_arguments(arguments: list[str]) -> Namespace:
    """Hydra's own flags, as it reads them. Raises SpecError for what it would end with an error of
    its own for, and for flags that read other option files."""
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        shown = message.removeprefix("argument ")
        raise SpecError(f"{shown}; python -m recipe --hydra-help lists Hydra's flags")

    parser = get_args_parser()
    parser.error = refuse
    asked: Namespace = parser.parse_args(arguments)
    if asked.multirun:
        raise SpecError("-m: what Hydra tells is of one run; leave -m out, and give one value each")
    given = [f"--{key.replace('_', '-')}" for key in ASKING if getattr(asked, key)]
    problems, typed = Problems(), os.environ.get("COMP_LINE", "")
    if len(given) > 1:
        problems.append(f"{' and '.join(given)}: Hydra answers one at a time; give one of them")
    for key in ELSEWHERE:
        if getattr(asked, key) is not None:
            problems.append(
                f"--{key.replace('_', '-')}: recipe reads its own option files and those of the "
                "working directory's conf/; leave it out"
            )
    for key in ("package", "resolve"):
        if getattr(asked, key) and not asked.cfg:
            problems.append(f"--{key} is a flag of --cfg; add --cfg job, or leave it out")
    if asked.shell_completion and (
        len(asked.overrides) != 1 or asked.overrides[0] not in COMPLETION
    ):
        problems.append(f"--shell-completion takes one of {', '.join(COMPLETION)}")
    elif asked.shell_completion and "query" in asked.overrides[0] and not typed.strip():
        problems.append(
            f"--shell-completion: {asked.overrides[0]} is for the shell, which sets COMP_LINE; use "
            f"{asked.overrides[0].replace('query', 'install')}"
        )
    problems.raise_any()
    return asked


READING = ("compare", "diff", "status", "tricks")
"""The verbs that only read what is recorded, which may be much."""


def _own(verb: str, arguments: list[str], module: str = "") -> int:
    """`recipe.cli.<verb>.<verb>`, or that of another module, imported when it is needed."""
    output.task("reading the recorded runs" if verb in READING else f"importing what {verb} needs")
    if verb in READING:
        gc.set_threshold(100_000)  # what is read stays, and needn't be looked at so often
    found = importlib.import_module(f"recipe.{module or f'cli.{verb}'}")
    done: int = getattr(found, verb)(arguments, _console())
    return done


VERBS: dict[str, Callable[[list[str]], int]] = {
    "train": lambda arguments: _verb(arguments)[0](_verb(arguments)[1]),
    "plan": _plan,
    "ablate": _ablate,
    "find-lr": _find_lr,
    "search": _search,
    "compare": functools.partial(_own, "compare", module="compare.command"),
    **{
        verb: functools.partial(_own, verb)
        for verb in (
            "diff",
            "predict",
            "prune",
            "replay",
            "resume",
            "status",
            "sync",
            "tricks",
            "ui",
        )
    },
}
