"""The run spec: all settings of a run, resolved and immutable."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from recipe.config import option_files, safe_yaml
from recipe.config.groups import GROUPS
from recipe.config.option_files import EXPERIMENT_GROUP, GLOBAL_PACKAGE_RULE, suggest_nearest
from recipe.config.renamed_targets import current_target, with_current_targets
from recipe.errors import SettingError, SpecError

Settings = Mapping[str, Any]

TRUST_WAY_OUT = "write trust=[mypackage]"


@dataclass(frozen=True)
class RunSpec:
    """The settings of the run, and a field per group with its `_target_` and settings."""

    options: Mapping[str, str]
    """The option chosen in each group."""
    seed: int
    epochs: int
    accumulate: int
    """The number of parts of a batch whose gradients are accumulated."""
    name: str | None
    summary: bool
    on_nonfinite: Literal["stop", "skip"]
    nonfinite_limit: int
    channels_last: bool | Literal["auto"]
    compile: bool
    checkpoint: Settings
    """`every` (None: never), `per` and `keep`."""
    again: bool
    """Whether runs that already finished, or were killed, are run again."""
    output_dir: str
    trust: tuple[str, ...]
    __annotations__.update(dict.fromkeys(GROUPS, "Settings"))  # a field for each group

    if TYPE_CHECKING:

        def __getattr__(self, group: str) -> Settings: ...

    @classmethod
    def from_config(cls, config: DictConfig, choices: Mapping[str, str]) -> RunSpec:
        """Converts a composed config; raises SpecError for unknown or missing keys, and for values
        that are not plain."""
        try:
            content: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException as error:
            message = (
                _explain_missing_reference(error, choices)
                or f"{error.full_key or 'spec'}: {format_omegaconf_error(error)}"
            )
            raise SpecError(message) from error
        except RecursionError as error:
            raise SpecError("spec: refers to itself; give the values themselves") from error
        if wrong := safe_yaml.find_invalid_values(content):
            raise SpecError(wrong)
        content = with_current_targets(content)
        known = {field.name for field in dataclasses.fields(cls)} - {"options"}
        unknown = [
            f"{key}: no such key"
            + (
                f"; {GLOBAL_PACKAGE_RULE}"
                if key == EXPERIMENT_GROUP
                else suggest_nearest(str(key), known)
            )
            for key in content
            if key not in known
        ]
        missing = [f"{key}: missing from the spec" for key in sorted(known - content.keys())]
        if unknown or missing:
            raise SpecError(unknown + missing)
        keys = (*GROUPS, "checkpoint")
        if wrong := [line for key in keys for line in _find_invalid_settings(key, content[key])]:
            raise SpecError(wrong)
        trust = content["trust"]
        if not isinstance(trust, list) or not all(isinstance(name, str) for name in trust):
            raise SettingError("trust", "must be a list of packages", trust, TRUST_WAY_OUT)
        content["trust"] = tuple(trust)
        return cls(options={group: choices[group] for group in GROUPS}, **content)

    @classmethod
    def from_file(cls, path: Path, trust: Sequence[str]) -> RunSpec:
        """Reads a recorded spec.yaml; its packages to trust are replaced by the reader's.

        It is complete, so nothing is resolved. Raises SpecError for an incomplete spec, and for
        values that are not plain.
        """
        try:
            references = safe_yaml.find_interpolations(path)
            content = None if references else safe_yaml.load(path)
            config = OmegaConf.create(content) if isinstance(content, dict) else None
        except (OSError, YAMLError, OmegaConfBaseException, ValueError) as error:
            reason = " ".join(str(error).split()).removeprefix(f"{path}: ")
            raise SpecError(f"spec: {path}: {reason}") from error
        if references:
            raise SpecError(
                f"{safe_yaml.escape_control_chars(key)}: {path} has a ${{...}} there, but a "
                "recorded spec is never resolved; write the value itself"
                for key in references
            )
        if config is None or not OmegaConf.is_dict(config.get("options")):
            raise SpecError(f"spec: {path} has no options; give the spec.yaml of a recorded run")
        chosen: Any = OmegaConf.to_container(config.pop("options"))
        lost = [f"options.{group}: missing from {path}" for group in GROUPS if group not in chosen]
        odd = [
            problem
            for group in GROUPS
            if isinstance(chosen.get(group), (Mapping, list))
            for problem in SettingError(
                f"options.{group}", "must be the name of an option", chosen[group], "write a string"
            ).problems
        ]
        if wrong := lost or odd or safe_yaml.find_invalid_values({"options": chosen}):
            raise SpecError(wrong)
        config.trust = list(trust)
        checkpoint = config.get("checkpoint")
        if isinstance(checkpoint, DictConfig) and "keep_finished" not in checkpoint:
            checkpoint.keep_finished = option_files.get_run_default(
                "checkpoint.keep_finished"
            )  # of an older version
        return cls.from_config(config, {group: str(chosen[group]) for group in GROUPS})

    @property
    def output_path(self) -> Path:
        return Path(self.output_dir).expanduser().resolve()

    @property
    def label(self) -> str:
        """The run's name: `name`, else the options that aren't defaults, else `baseline`."""
        default = option_files.get_default_options()
        on = [
            f"{group}={self.options[group]}"
            for group in GROUPS
            if group not in ("device", "tracking") and self.options[group] != default[group]
        ]
        return self.name or " ".join(on) or "baseline"

    def format_choice(self, group: str) -> str:
        """Returns the choice of a group: `clip=norm`, or `clip._target_=...` if it was replaced."""
        target = getattr(self, group).get("_target_")
        if isinstance(target, str) and self.has_custom_target(group):
            return f"{group}._target_={target}"
        return f"{group}={self.options[group]}"

    def has_custom_target(self, group: str) -> bool:
        """Whether the `_target_` differs from that of the option's file."""
        files = option_files.resolve_inheritance(group, self.options[group])
        named = [
            current_target(str(file.content["_target_"]))
            for file in files
            if "_target_" in file.content
        ]
        return bool(named) and getattr(self, group).get("_target_") != named[-1]

    @property
    def with_normalized_numbers(self) -> RunSpec:
        """A copy with whole numbers as floats where the option's file has a float, so that 1 equals
        1.0."""
        settings: dict[str, Any] = {
            group: option_files.normalize_numbers(
                group, self.options.get(group, ""), getattr(self, group)
            )
            for group in GROUPS
        }
        return dataclasses.replace(self, **settings)

    def with_settings(self, **groups: Any) -> RunSpec:
        return dataclasses.replace(self, **groups)

    def to_yaml(self) -> str:
        return str(OmegaConf.to_yaml(_to_plain_dict(self)))

    def to_parameters(self) -> dict[str, Any]:
        """Returns the recorded parameters: options by group, settings by dotted key."""
        written = self.with_normalized_numbers
        flat: dict[str, Any] = {**self.options, "seed": self.seed, "epochs": self.epochs}
        for group in GROUPS:
            flat |= flatten(
                group, {k: v for k, v in getattr(written, group).items() if k != "_target_"}
            )
        return flat


def _find_invalid_settings(group: str, node: Any) -> list[str]:
    """Describes why a value can't be the settings of a group; empty if it can."""
    if not isinstance(node, Mapping):
        chosen = f"defaults: [override /{group}: {node}]"
        named = f", in a file with {chosen}" if isinstance(node, str) else ""
        way_out = (
            f"choose an option{named}" if group in GROUPS else f"give {group}.<setting>=<value>"
        )
        return SettingError(group, "must be a mapping of settings", node, way_out).problems
    return [
        f"{group}.{key}: the name of a setting must be a string; leave it out"
        for key in node
        if not isinstance(key, str)
    ]


def format_omegaconf_error(error: OmegaConfBaseException) -> str:
    """Returns OmegaConf's message without the type of an error in a resolver."""
    return re.sub(r"^\w+ raised while resolving interpolation: ", "", str(error).splitlines()[0])


def _explain_missing_reference(error: OmegaConfBaseException, choices: Mapping[str, str]) -> str:
    """Explains a reference to a setting that the chosen option lacks; empty for other errors."""
    found = re.search(r"Interpolation key '(\w+)\.(\w[\w.]*)' not found", str(error))
    if not found or found[1] not in choices:
        return ""
    group, setting = found.groups()
    option = f"{group}={choices[group]}"
    return (
        f"{group}.{setting} is not given, and {error.full_key} is taken from it; write {setting} "
        f"in the file of {option}, or give +{group}.{setting}=<value>"
    )


def _to_plain_dict(spec: RunSpec) -> dict[str, Any]:
    content = dataclasses.asdict(spec)
    content["trust"] = list(spec.trust)
    return content


def flatten(prefix: str, value: Any) -> dict[str, Any]:
    """Returns values by dotted key; a list that contains mappings becomes one value, as JSON."""
    if isinstance(value, Mapping):
        return {
            k: v
            for name, item in value.items()
            for k, v in flatten(f"{prefix}.{name}", item).items()
        }
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return {prefix: json.dumps(value)}
    return {prefix: value}
