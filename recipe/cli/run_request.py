"""The spec of a run that a command line describes, read without importing torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.types import Override

from recipe.cli.main import load
from recipe.config import compose, option_files
from recipe.config.groups import GROUPS
from recipe.config.overrides import check_overrides, describe_interval_problem
from recipe.config.recorded_spec import override_destinations
from recipe.config.spec import RunSpec
from recipe.config.verb_arguments import parse_key_values, parse_number
from recipe.errors import Problems


@dataclass(frozen=True)
class RunRequest:
    spec: RunSpec
    problems: Problems
    """Errors in the command line; they are raised with those of the components."""
    arguments: Sequence[str]


@dataclass(frozen=True)
class LRTestRequest:
    spec: RunSpec
    problems: Problems
    arguments: Sequence[str]
    """Without those of the test."""
    min_lr: float
    max_lr: float
    num_steps: int


def parse_train(arguments: Sequence[str]) -> RunRequest:
    return _parse(arguments, "several values need a sweep; add -m")


def parse_plan(arguments: Sequence[str]) -> RunRequest:
    return _parse(arguments, _format_single_run_hint("plan"))


def parse_find_lr(arguments: Sequence[str]) -> LRTestRequest:
    defaults = {"from": "1e-6", "to": "10", "steps": "100"}
    own = [text for text in arguments if text.removeprefix("--").partition("=")[0] in defaults]
    values, problems = parse_key_values("find-lr", own, defaults), Problems()
    with problems.collect("find-lr"):
        min_lr, max_lr = (parse_number("find-lr", key, values[key]) for key in ("from", "to"))
        num_steps = int(parse_number("find-lr", "steps", values["steps"], is_integer=True))
    problems.raise_if_any()
    rest = [text for text in arguments if text not in own]
    run = _parse(rest, _format_single_run_hint("find-lr"))
    return LRTestRequest(run.spec, run.problems, rest, min_lr, max_lr, num_steps)


def _format_single_run_hint(verb: str) -> str:
    return f"{verb} takes a single run; give one value, or run all with python -m recipe -m"


def reject_sweep_overrides(overrides: Sequence[Override], hint: str) -> None:
    """Raises SpecError for several values of one setting; `hint` is the way out."""
    Problems(
        describe_interval_problem(override, "one value")
        if override.is_interval_sweep()
        else f"{override.input_line}: {hint}"
        for override in overrides
        if override.is_sweep_override()
    ).raise_if_any()


def _parse(arguments: Sequence[str], sweep_hint: str) -> RunRequest:
    """Composes the spec from the valid overrides, and collects the errors of the others.

    Raises SpecError at once if no component has to be imported to find further errors.
    """
    if any(argument.startswith("spec=") for argument in arguments):
        return RunRequest(_read_spec_file(arguments), Problems(), arguments)
    overrides = compose.parse_overrides(arguments)
    reject_sweep_overrides(overrides, sweep_hint)
    with compose.composition_context():
        checked = check_overrides(overrides)
        problems = checked.problems
        keys = [override.key_or_group for override in checked.overrides]
        if option_files.user_conf_dir() is None and set(GROUPS).issuperset(keys):
            problems.raise_if_any()  # recipe's own options have no further problems
        (job,) = compose.expand_sweep(checked.overrides)
        spec = job.to_spec()
    if not any(key.partition(".")[0] in GROUPS and "." in key for key in keys):
        # imports pydantic, 50 ms that a mistyped option need not wait for
        problems += load("recipe.config.schema:find_run_setting_problems")(vars(spec))
        problems.raise_if_any()
    return RunRequest(spec, problems, arguments)


def _read_spec_file(arguments: Sequence[str]) -> RunSpec:
    defaults = {"spec": "", "trust": "", "output_dir": "", "tracking.uri": ""}
    values = parse_key_values("spec", arguments, defaults)
    spec = RunSpec.from_file(
        Path(values["spec"]).expanduser(), compose.get_trusted_packages(values["trust"])
    )
    return override_destinations(
        spec, values["output_dir"], values["tracking.uri"], compose.compose_project()
    )
