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
from recipe.runner.exit_status import exit_process, get_signal_exit_status, run_command
from recipe.runner.signals import ignore_signals, install_signal_handlers

if TYPE_CHECKING:
    from argparse import Namespace

    from hydra.core.override_parser.types import Override

    from recipe.config.spec import RunSpec
    from recipe.runner.console import Console

HYDRA_FLAGS = ("--cfg", "-c", "--info", "-i", "--shell-completion", "-sc", "--hydra-help")
"""Hydra's own flags, answered by Hydra itself."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command line and exits: 0 done, 1 failed, 2 refused, 130 and 143 killed."""
    output.configure_streams()
    atexit.register(ignore_signals)  # the first registered, and so the last that is called
    try:
        if World.from_environment().rank == 0:
            output.start_task_notices()
    except SpecError as error:
        output.print_error(str(error))
        sys.exit(error.exit_status)
    try:
        status = run_command_line(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt as error:  # a second signal, while the first one was reported
        status = get_signal_exit_status(error)
    exit_process(status)


def run_command_line(arguments: list[str]) -> int:
    install_signal_handlers()
    world = World.from_environment()
    if world.size == 1:
        return run_command(lambda: _dispatch(arguments))
    from recipe.runner import other_ranks
    from recipe.training import rendezvous

    if world.rank:
        with contextlib.suppress(SpecError):  # the first process prints it
            _add_working_dir_to_path()
        status = run_command(other_ranks.run_other_rank, print_errors=False)
    else:
        status = run_command(lambda: _dispatch_on_first_rank(world, arguments))
        rendezvous.send_exit_status(status)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, where another has ended already
    rendezvous.finish_command()
    return status


def _add_working_dir_to_path() -> None:
    """Looks for modules in the working directory. Raises SpecError if that was removed."""
    try:
        here = str(Path.cwd())
    except FileNotFoundError as error:
        raise SpecError("the working directory was removed; change to another one") from error
    # the console script, unlike python -m, does not look for modules in the working directory
    if "" not in sys.path and here not in sys.path:
        sys.path.insert(0, here)


def _dispatch(arguments: list[str]) -> int:
    _add_working_dir_to_path()
    verb, rest = _resolve_verb(arguments)
    return verb(rest)


MULTI_PROCESS_VERBS = ("train", "resume")
"""The verbs for which several processes are of use."""


def _dispatch_on_first_rank(world: World, arguments: list[str]) -> int:
    """In the first of several processes."""
    verb = next((a for a in arguments if a in VERBS or a in ("-m", "--multirun")), "train")
    asks = any(argument in ("-h", "--help") for argument in arguments)
    if verb not in MULTI_PROCESS_VERBS and not asks:
        sweep = verb in ("-m", "--multirun", "ablate")
        what = "starts runs of its own, so" if sweep else "is done by one process, and"
        rest = " ".join(map(shlex.quote, arguments))
        raise SpecError(
            f"{verb}: it {what} {world.size} processes can't share it; use python -m recipe {rest}"
        )
    return _dispatch(arguments)


def _resolve_verb(arguments: list[str]) -> tuple[Callable[[list[str]], int], list[str]]:
    if any(argument in ("-h", "--help") for argument in arguments):
        return help.print_help, arguments
    if arguments and arguments[0] in VERBS:
        return VERBS[arguments[0]], arguments[1:]
    if arguments and arguments[0].isidentifier():
        raise SpecError(
            f"{arguments[0]}: no such verb{option_files.suggest_nearest(arguments[0], VERBS)}; "
            "without a verb, give settings as key=value"
        )
    if "--version" in arguments:
        return help.print_version, arguments
    if any(argument.split("=")[0] in HYDRA_FLAGS for argument in arguments):
        return _run_hydra, arguments
    if any(argument in ("-m", "--multirun") for argument in arguments):
        return _multirun, arguments
    return _train, arguments


def _make_console() -> Console:
    from recipe.runner.console import Console

    return Console()


def _train(arguments: list[str]) -> int:
    problems = Problems()
    spec = _compose_spec(arguments, problems)
    if spec.options["tracking"] != "none":
        from recipe.mlflow_sync import worker_process

        worker_process.get_worker()  # MLflow is imported there while torch is here
    from recipe.runner.execute import execute_run, prepare_run, print_agreement, print_report

    run = prepare_run(spec, problems)
    from recipe.runner import earlier_runs, fingerprint
    from recipe.runner import plan as planning

    console = _make_console()
    console.print(planning.format_headline(spec, run), soft_wrap=True)
    before = earlier_runs.find_earlier_runs(spec, fingerprint.compute(spec, run))
    if before.running_run_dir:
        other = f"Caution another process is running this already, as {before.running_run_dir.name}"
        console.print(other, style="yellow", soft_wrap=True)
    outcome, recorder = execute_run(
        spec, run, console, name=spec.label, command=" ".join(arguments), earlier_runs=before
    )
    print_report(console, outcome, recorder)
    print_agreement(console, before, recorder)
    return 0


def _plan(arguments: list[str]) -> int:
    problems = Problems()
    spec = _compose_spec(arguments, problems, _format_single_run_hint("plan"))
    from recipe.runner.execute import prepare_run

    run = prepare_run(spec, problems)
    from recipe.runner import component_errors, plan

    console = _make_console()
    with component_errors.wrap_component_errors(spec, run):
        made = plan.make_plan(spec, run)
        seconds = plan.estimate_epoch_seconds(run)
    if spec.summary:
        console.print(str(made.model_summary), soft_wrap=True)
    console.print(plan.render_plan(made, seconds=seconds))
    return 0


def _find_lr(arguments: list[str]) -> int:
    from recipe.config.key_values import parse_key_values, parse_number
    from recipe.runner.execute import prepare_run

    known = {"from": "1e-6", "to": "10", "steps": "100"}
    own = [text for text in arguments if text.removeprefix("--").partition("=")[0] in known]
    given, problems = parse_key_values("find-lr", own, known), Problems()
    with problems.collect("find-lr"):
        lowest, highest = (parse_number("find-lr", key, given[key]) for key in ("from", "to"))
        steps = int(parse_number("find-lr", "steps", given["steps"], is_integer=True))
    problems.raise_if_any()
    rest = [text for text in arguments if text not in own]
    spec = _compose_spec(rest, problems, _format_single_run_hint("find-lr"))
    run = prepare_run(spec, problems)
    from recipe.runner.lr_finder import find_lr

    with problems.collect("find-lr"):
        find_lr(
            spec, run, _make_console(), min_lr=lowest, max_lr=highest, num_steps=steps, command=rest
        )
    problems.raise_if_any()
    return 0


def _format_single_run_hint(verb: str) -> str:
    """What to do with several values where a verb takes one."""
    return f"{verb} takes a single run; give one value, or run all with python -m recipe -m"


def _compose_spec(
    arguments: list[str],
    problems: Problems,
    sweep_hint: str = "several values need a sweep; add -m",
) -> RunSpec:
    """The spec of a single run; what is wrong with the overrides is added to `problems`, and the
    rest of them composed, so that later checks can add theirs. `several`: what to do with several
    values."""
    output.set_current_task("reading the command line")
    from recipe.config import compose
    from recipe.config.overrides import check_overrides

    if any(argument.startswith("spec=") for argument in arguments):
        return _read_spec_file(arguments)
    overrides = compose.parse_overrides(arguments)
    _reject_sweep_overrides(overrides, sweep_hint)
    with compose.composition_context():
        checked = check_overrides(overrides)
        problems += checked.problems
        if option_files.user_conf_dir() is None and all(
            _is_group_override(o) for o in checked.overrides
        ):
            problems.raise_if_any()  # of our own options nothing else can be wrong
        (job,) = compose.expand_sweep(checked.overrides)
        spec = job.to_spec()
    from recipe.config.schema import find_run_setting_problems

    if not any(_is_component_setting(override.key_or_group) for override in checked.overrides):
        # what is wrong is told before torch is imported: no other word needs it to be judged
        problems += find_run_setting_problems(vars(spec))
        problems.raise_if_any()
    return spec


def _reject_sweep_overrides(overrides: Sequence[Override], reason: str) -> None:
    from recipe.config.overrides import describe_interval_problem

    Problems(
        describe_interval_problem(override, "one value")
        if override.is_interval_sweep()
        else f"{override.input_line}: {reason}"
        for override in overrides
        if override.is_sweep_override()
    ).raise_if_any()


def _is_group_override(override: Override) -> bool:
    return override.key_or_group in option_files.GROUPS


def _is_component_setting(key: str) -> bool:
    """Of a part, which alone knows what it may be."""
    group, _, setting = key.partition(".")
    return group in option_files.GROUPS and bool(setting)


def _read_spec_file(arguments: list[str]) -> RunSpec:
    from recipe.config import compose, restrictions
    from recipe.config.key_values import parse_key_values
    from recipe.config.spec import RunSpec

    known = {"spec": "", "trust": "", "output_dir": "", "tracking.uri": ""}
    values = parse_key_values("spec", arguments, known)
    spec = RunSpec.from_file(
        Path(values["spec"]).expanduser(), compose.get_trusted_packages(values["trust"])
    )
    return restrictions.override_destinations(
        spec, values["output_dir"], values["tracking.uri"], compose.compose_project()
    )


def _multirun(arguments: list[str]) -> int:
    from recipe.sweep.multirun import multirun

    given = [a for a in arguments if a not in ("-m", "--multirun")]
    return multirun(given, _make_console(), arguments)


def _ablate(arguments: list[str]) -> int:
    from recipe.sweep.ablation import plan as ablate
    from recipe.sweep.multirun import multirun

    return multirun(ablate.to_sweeper_overrides(arguments), _make_console(), ["ablate", *arguments])


def _search(arguments: list[str]) -> int:
    from recipe.sweep import sweeper_arguments
    from recipe.sweep.multirun import multirun
    from recipe.sweep.search import arguments as asked

    given = sweeper_arguments.to_sweeper_overrides(
        "search", "search", asked.ARGUMENT_NAMES, arguments
    )
    return multirun(given, _make_console(), ["search", *arguments])


CFG_FLAGS = {"cfg", "overrides", "package", "resolve"}
"""What may be given with `--cfg` for us to print what was composed to be checked."""

EXCLUSIVE_HYDRA_FLAGS = ("cfg", "info", "shell_completion", "hydra_help", "run")
"""What Hydra is asked for; one at a time."""

CONFIG_SOURCE_FLAGS = ("config_path", "config_name", "config_dir", "experimental_rerun")
"""Hydra's flags that read other files than recipe's menu and the user's conf/."""

SHELL_COMPLETIONS = tuple(
    f"{command}={shell}"
    for command in ("install", "uninstall", "query")
    for shell in ("bash", "fish", "zsh")
)
"""What `--shell-completion` takes."""


def _run_hydra(arguments: list[str]) -> int:
    import hydra

    from recipe.config import compose
    from recipe.config.overrides import check_overrides

    compose.register_user_conf()
    asked = _parse_hydra_arguments(arguments)
    if not asked.shell_completion:
        # Hydra configures logging from what it composes, and logging calls things
        overrides = compose.parse_overrides(asked.overrides)
        _reject_sweep_overrides(overrides, "what Hydra tells is of one run; give one value")
        with compose.composition_context():
            check_overrides(overrides).problems.raise_if_any()
            for job in compose.expand_sweep(overrides):
                job.to_spec()
            if asked.cfg and CFG_FLAGS.issuperset(
                key for key, value in vars(asked).items() if value
            ):
                compose.print_config(
                    asked.cfg, asked.overrides, asked.package, resolve=asked.resolve
                )
                return 0
    sys.argv = [sys.argv[0], *arguments]
    program, _, typed = os.environ.get("COMP_LINE", "").partition(" ")
    if typed.partition(" ")[0] in VERBS:  # Hydra completes overrides and knows no verbs
        os.environ["COMP_LINE"] = f"{program} {typed.partition(' ')[2]}"
    hydra.main(
        version_base="1.3", config_path=str(option_files.builtin_conf_dir()), config_name="config"
    )(lambda config: None)()
    return 0


def _parse_hydra_arguments(arguments: list[str]) -> Namespace:
    """Hydra's own flags, as it reads them. Raises SpecError for what it would end with an error of
    its own for, and for flags that read other option files."""
    from hydra._internal.utils import get_args_parser

    def raise_spec_error(message: str) -> NoReturn:
        shown = message.removeprefix("argument ")
        raise SpecError(f"{shown}; python -m recipe --hydra-help lists Hydra's flags")

    parser = get_args_parser()
    parser.error = raise_spec_error
    asked: Namespace = parser.parse_args(arguments)
    if asked.multirun:
        raise SpecError("-m: what Hydra tells is of one run; leave -m out, and give one value each")
    given = [f"--{key.replace('_', '-')}" for key in EXCLUSIVE_HYDRA_FLAGS if getattr(asked, key)]
    problems, typed = Problems(), os.environ.get("COMP_LINE", "")
    if len(given) > 1:
        problems.append(f"{' and '.join(given)}: Hydra answers one at a time; give one of them")
    for key in CONFIG_SOURCE_FLAGS:
        if getattr(asked, key) is not None:
            problems.append(
                f"--{key.replace('_', '-')}: recipe reads its own option files and those of the "
                "working directory's conf/; leave it out"
            )
    for key in ("package", "resolve"):
        if getattr(asked, key) and not asked.cfg:
            problems.append(f"--{key} is a flag of --cfg; add --cfg job, or leave it out")
    if asked.shell_completion and (
        len(asked.overrides) != 1 or asked.overrides[0] not in SHELL_COMPLETIONS
    ):
        problems.append(f"--shell-completion takes one of {', '.join(SHELL_COMPLETIONS)}")
    elif asked.shell_completion and "query" in asked.overrides[0] and not typed.strip():
        problems.append(
            f"--shell-completion: {asked.overrides[0]} is for the shell, which sets COMP_LINE; use "
            f"{asked.overrides[0].replace('query', 'install')}"
        )
    problems.raise_if_any()
    return asked


READ_ONLY_VERBS = ("compare", "diff", "status", "tricks")
"""The verbs that only read what is recorded, which may be much."""


def _run_verb(verb: str, arguments: list[str], module: str = "") -> int:
    """`recipe.cli.<verb>.<verb>`, or that of another module, imported when it is needed."""
    output.set_current_task(
        "reading the recorded runs" if verb in READ_ONLY_VERBS else f"importing what {verb} needs"
    )
    if verb in READ_ONLY_VERBS:
        gc.set_threshold(100_000)  # what is read stays, and needn't be looked at so often
    found = importlib.import_module(f"recipe.{module or f'cli.{verb}'}")
    done: int = getattr(found, verb)(arguments, _make_console())
    return done


VERBS: dict[str, Callable[[list[str]], int]] = {
    "train": lambda arguments: _resolve_verb(arguments)[0](_resolve_verb(arguments)[1]),
    "plan": _plan,
    "ablate": _ablate,
    "find-lr": _find_lr,
    "search": _search,
    "compare": functools.partial(_run_verb, "compare", module="compare.command"),
    **{
        verb: functools.partial(_run_verb, verb)
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
