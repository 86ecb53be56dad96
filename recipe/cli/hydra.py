"""Hydra's flags, such as --cfg: the overrides are checked, and Hydra handles the flag."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Collection, Sequence
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser

from recipe.cli.run_request import reject_sweep_overrides
from recipe.config import compose, option_files
from recipe.config.overrides import check_overrides
from recipe.errors import Problems, SpecError

FLAGS_WITH_CFG = {"cfg", "overrides", "package", "resolve"}

EXCLUSIVE_FLAGS = ("cfg", "info", "shell_completion", "hydra_help", "run")

CONFIG_SOURCE_FLAGS = ("config_path", "config_name", "config_dir", "experimental_rerun")

SHELL_COMPLETIONS = tuple(
    f"{command}={shell}"
    for command in ("install", "uninstall", "query")
    for shell in ("bash", "fish", "zsh")
)


def run_hydra(arguments: Sequence[str], verbs: Collection[str]) -> int:
    """Raises SpecError for errors; `verbs` are ignored in a shell's completion requests."""
    compose.register_user_conf()
    flags = _parse_arguments(arguments)
    if not flags.shell_completion:
        # checked before, as Hydra configures logging from the config, which can call functions
        overrides = compose.parse_overrides(flags.overrides)
        reject_sweep_overrides(overrides, "Hydra's flags show a single run; give one value")
        with compose.composition_context():
            check_overrides(overrides).problems.raise_if_any()
            for job in compose.expand_sweep(overrides):
                job.to_spec()
            given = {key for key, value in vars(flags).items() if value}
            if flags.cfg and given <= FLAGS_WITH_CFG:
                compose.print_config(
                    flags.cfg, flags.overrides, flags.package, resolve=flags.resolve
                )
                return 0
    sys.argv = [sys.argv[0], *arguments]
    program, _, typed = os.environ.get("COMP_LINE", "").partition(" ")
    if typed.partition(" ")[0] in verbs:  # Hydra completes overrides and knows no verbs
        os.environ["COMP_LINE"] = f"{program} {typed.partition(' ')[2]}"
    main = hydra.main(
        version_base="1.3", config_path=str(option_files.builtin_conf_dir()), config_name="config"
    )
    main(lambda config: None)()
    return 0


def _parse_arguments(arguments: Sequence[str]) -> Namespace:
    """Hydra's flags. Raises SpecError for flags that it can't parse, or that read other files."""

    def raise_spec_error(message: str) -> NoReturn:
        shown = message.removeprefix("argument ")
        raise SpecError(f"{shown}; python -m recipe --hydra-help lists Hydra's flags")

    parser = get_args_parser()
    parser.error = raise_spec_error
    flags: Namespace = parser.parse_args(arguments)
    if flags.multirun:
        raise SpecError(
            "-m: Hydra's flags show a single run; leave -m out, and give one value each"
        )
    problems = Problems()
    given = [f"--{key.replace('_', '-')}" for key in EXCLUSIVE_FLAGS if getattr(flags, key)]
    if len(given) > 1:
        problems.append(f"{' and '.join(given)}: Hydra answers one at a time; give one of them")
    problems += [
        f"--{key.replace('_', '-')}: recipe reads its own option files and those of the "
        "working directory's conf/; leave it out"
        for key in CONFIG_SOURCE_FLAGS
        if getattr(flags, key) is not None
    ]
    problems += [
        f"--{key} is a flag of --cfg; add --cfg job, or leave it out"
        for key in ("package", "resolve")
        if getattr(flags, key) and not flags.cfg
    ]
    if flags.shell_completion:
        command = flags.overrides[0] if len(flags.overrides) == 1 else ""
        if command not in SHELL_COMPLETIONS:
            problems.append(f"--shell-completion takes one of {', '.join(SHELL_COMPLETIONS)}")
        elif command.startswith("query") and not os.environ.get("COMP_LINE", "").strip():
            problems.append(
                f"--shell-completion: {command} is for the shell, which sets COMP_LINE; use "
                f"{command.replace('query', 'install')}"
            )
    problems.raise_if_any()
    return flags
