"""The command line: the table of verbs, and the order of imports.

The spec of a verb that trains is parsed without torch. Then the environment variables of its device
are set, which torch reads when it is imported, and only then the module of the verb is imported.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import pkgutil
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe import output
from recipe.config.option_files import suggest_nearest
from recipe.config.world_size import World
from recipe.errors import Problems, SpecError
from recipe.runner.exit_status import exit_process, get_signal_exit_status, run_command
from recipe.runner.signals import ignore_signals, install_signal_handlers


@dataclass(frozen=True)
class Verb:
    """Functions by `module:name`; they are imported when the verb is called."""

    function: str
    """Called with (arguments, console), or with a parser (request, console); returns the exit
    status."""
    parser: str = ""
    """Parses the arguments into a request with the run's spec, without importing torch."""
    task: str = ""
    """What is printed as the current task while the verb is imported."""


READING_TASK = "reading the recorded runs"

VERBS = {
    "train": Verb("recipe.cli.train:train", parser="recipe.cli.run_request:parse_train"),
    "plan": Verb("recipe.cli.plan:plan", parser="recipe.cli.run_request:parse_plan"),
    "ablate": Verb("recipe.cli.sweeps:ablate"),
    "find-lr": Verb("recipe.cli.find_lr:find_lr", parser="recipe.cli.run_request:parse_find_lr"),
    "search": Verb("recipe.cli.sweeps:search"),
    "compare": Verb("recipe.compare.command:compare", task=READING_TASK),
    "diff": Verb("recipe.cli.diff:diff", task=READING_TASK),
    "predict": Verb("recipe.cli.predict:predict"),
    "prune": Verb("recipe.cli.prune:prune"),
    "replay": Verb("recipe.cli.replay:replay", parser="recipe.cli.recorded_run:parse_replay"),
    "resume": Verb("recipe.cli.resume:resume", parser="recipe.cli.recorded_run:parse_resume"),
    "status": Verb("recipe.cli.status:status", task=READING_TASK),
    "sync": Verb("recipe.cli.sync:sync"),
    "tricks": Verb("recipe.cli.tricks:tricks", task=READING_TASK),
    "ui": Verb("recipe.cli.ui:ui"),
}

HELP_FLAGS, MULTIRUN_FLAGS = ("-h", "--help"), ("-m", "--multirun")

HYDRA_FLAGS = ("--cfg", "-c", "--info", "-i", "--shell-completion", "-sc", "--hydra-help")

MULTI_PROCESS_VERBS = ("train", "resume")


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
    output.silence_font_cache_log()
    world = World.from_environment()
    if world.size == 1:
        return run_command(lambda: _dispatch(arguments))
    if world.rank:
        with contextlib.suppress(SpecError):  # the first process prints it
            _add_working_dir_to_path()
        status = run_command(_run_other_rank, print_errors=False)
    else:
        status = run_command(lambda: _dispatch_on_first_rank(world, arguments))
        load("recipe.training.rendezvous:send_exit_status")(status)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, where another has ended already
    load("recipe.training.rendezvous:finish_command")()
    return status


def load(function: str) -> Any:
    """The only place where the command line imports a module late."""
    return pkgutil.resolve_name(function)


def _run_other_rank() -> int:
    device = "recipe.components.device"
    threads = load(f"{device}:thread_count")("auto")
    os.environ.update(load(f"{device}:thread_environment")(threads))  # torch is imported next
    status: int = load("recipe.runner.other_ranks:run_other_rank")()
    return status


def _add_working_dir_to_path() -> None:
    """Makes modules in the working directory importable. Raises SpecError if that was removed."""
    try:
        here = str(Path.cwd())
    except FileNotFoundError as error:
        raise SpecError("the working directory was removed; change to another one") from error
    # the console script, unlike python -m, does not look for modules in the working directory
    if "" not in sys.path and here not in sys.path:
        sys.path.insert(0, here)


def _dispatch_on_first_rank(world: World, arguments: list[str]) -> int:
    verb = next((a for a in arguments if a in VERBS or a in MULTIRUN_FLAGS), "train")
    if verb not in MULTI_PROCESS_VERBS and not set(HELP_FLAGS) & set(arguments):
        is_sweep = verb in (*MULTIRUN_FLAGS, "ablate")
        reason = "starts its own processes" if is_sweep else "runs in one process"
        rest = " ".join(map(shlex.quote, arguments))
        raise SpecError(
            f"{verb}: {reason}, so {world.size} processes can't share it; "
            f"use python -m recipe {rest}"
        )
    return _dispatch(arguments)


def _dispatch(arguments: list[str]) -> int:
    _add_working_dir_to_path()
    if set(HELP_FLAGS) & set(arguments):
        return int(load("recipe.cli.help:print_help")())
    if arguments[:1] == ["train"]:
        arguments = arguments[1:]
    if arguments[:1] == ["sync"] and len(arguments) == 2 and arguments[1].startswith("follow="):
        load("recipe.mlflow_sync.uploader:serve_requests")(Path(arguments[1].partition("=")[2]))
        return 0
    if arguments and arguments[0] in VERBS:
        return _run_verb(arguments[0], VERBS[arguments[0]], arguments[1:])
    if arguments and arguments[0].isidentifier():
        raise SpecError(
            f"{arguments[0]}: no such verb{suggest_nearest(arguments[0], VERBS)}; "
            "without a verb, give settings as key=value"
        )
    if "--version" in arguments:
        return int(load("recipe.cli.help:print_version")())
    if any(argument.split("=")[0] in HYDRA_FLAGS for argument in arguments):
        return int(load("recipe.cli.hydra:run_hydra")(arguments, VERBS))
    if set(MULTIRUN_FLAGS) & set(arguments):
        return _run_verb("-m", Verb("recipe.cli.sweeps:run_grid"), arguments)
    return _run_verb("train", VERBS["train"], arguments)


def _run_verb(name: str, verb: Verb, arguments: list[str]) -> int:
    with contextlib.ExitStack() as until_the_end:
        request: Any = arguments
        if verb.parser:
            output.set_current_task("reading the command line")
            request = load(verb.parser)(arguments)
            if name == "train":  # it imports MLflow while torch is imported here
                prestart = load("recipe.mlflow_sync.upload_queue:prestart_uploader")
                until_the_end.enter_context(prestart(request.spec))
            output.set_current_task("importing torch")
            # what is wrong with the device is reported with all other problems
            set_environment = load("recipe.runner.device_environment:set_device_environment")
            set_environment(request.spec, Problems())
        else:
            output.set_current_task(verb.task or f"importing what {name} needs")
        if verb.task == READING_TASK:
            gc.set_threshold(100_000)  # most of what is read lives until the end
        function, console = load(verb.function), load("recipe.runner.console:Console")()
        status: int = function(request, console)
    return status
