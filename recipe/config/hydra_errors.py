"""Explains errors of Hydra, which have no types, by their messages."""

from __future__ import annotations

import re

from recipe.config import option_files
from recipe.config.groups import GROUPS


def explain(message: str) -> str:
    """Returns an explanation with a way out; empty for other errors."""
    explanations = (
        function(message)
        for function in (
            _explain_missing_launcher,
            _explain_type_mismatch,
            _explain_missing_option,
            _explain_missing_package_line,
        )
    )
    return next(filter(None, explanations), "")


def _explain_type_mismatch(message: str) -> str:
    """Explains a mapping in place of a list, or the reverse; empty for other errors."""
    override = message.removeprefix("Error merging override ")
    if override == message:
        return ""
    return (
        f"{override}: the value has another type; give a list [a,b] for a list, a mapping "
        "{a: 1} for a mapping"
    )


def _explain_missing_option(message: str) -> str:
    """Explains a missing option that a file chooses; empty for other errors."""
    found = re.search(r"^In '([^']+)': Could not find '(\w+)/([\w.-]+)'", message)
    if not found or found[2] not in GROUPS:
        return ""
    where, group, name = found.groups()
    known = option_files.find_options(group)
    if name in known:  # a device file, which Hydra ignores
        return f"{group}={name} can't be used: {known[name].problem}"
    hint = option_files.suggest_nearest(name, known) or f"; there are {', '.join(known)}"
    return f"{where}.yaml: {group}={name}: no such option{hint}"


def _explain_missing_package_line(message: str) -> str:
    """Explains an experiment file that lacks its first line; empty for other errors."""
    return (
        f"{message.partition(': ')[0]}: {option_files.GLOBAL_PACKAGE_RULE}"
        if "@experiment." in message
        else ""
    )


def _explain_missing_launcher(message: str) -> str:
    """Explains a launcher that Hydra can't find; empty for other errors."""
    found = re.search(r"Could not find 'hydra/launcher/(\w+)'", message)
    if not found:
        return ""
    name = found[1]
    package = f"hydra-{name.partition('_')[0]}-launcher"
    there = re.search(
        r"Available options in 'hydra/launcher': ([\w ]+?) Config search path", message
    )
    known = f"; there are: {', '.join(there[1].split())}" if there else ""
    return (
        f"hydra/launcher={name}: no such launcher is installed{known}; Hydra's other launchers are "
        f"separate packages (pip install {package})"
    )
