"""A cache of Hydra's composition of option files, which takes most of its time.

The jobs of a sweep, and the checks of a command line, differ in few options; settings are applied
to a copy of each as Hydra applies them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

CompositionCache = dict[tuple[str | None, tuple[str, ...]], DictConfig]
"""Composed configs by the config's name and the overrides that choose options."""


class CachedConfigLoader(ConfigLoader):  # type: ignore[misc]
    """Loads what `inner` would, from option files as they were when first composed."""

    def __init__(self, inner: ConfigLoaderImpl, cache: CompositionCache | None = None) -> None:
        """`cache` is that of another loader, to be shared."""
        self.inner = inner
        self.cache: CompositionCache = {} if cache is None else cache

    def __getstate__(self) -> dict[str, Any]:
        """The cache is not sent to other processes."""
        return {"inner": self.inner, "cache": {}}

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        composed: DictConfig
        if run_mode != RunMode.RUN:
            composed = self.inner.load_configuration(
                config_name, overrides, run_mode, from_shell, validate_sweep_overrides
            )
            return composed
        given = OverridesParser.create().parse_overrides(overrides)
        if validate_sweep_overrides:
            self.inner.validate_sweep_overrides_legal(given, run_mode, from_shell)
        choosing = [o for o in given if self._is_option_choice(o)]
        options = tuple(o.input_line for o in choosing)
        composed = copy.deepcopy(self._compose_options(config_name, options, from_shell))
        self.inner._apply_overrides_to_config([o for o in given if o not in choosing], composed)
        _set_override_record(composed, given, options)
        return composed

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        given = [*master_config.hydra.overrides.hydra, *sweep_overrides]
        composed = self.load_configuration(
            master_config.hydra.job.config_name, given, run_mode=RunMode.RUN
        )
        OmegaConf.copy_cache(from_config=master_config, to_config=composed)
        return composed

    def _is_option_choice(self, override: Override) -> bool:
        """Whether an override chooses an option rather than a value."""
        key = override.key_or_group
        return (
            override.package is not None
            or key == "hydra.searchpath"
            or self.inner.repository.group_exists(key)
        )

    def _compose_options(
        self, name: str | None, options: tuple[str, ...], from_shell: bool
    ) -> DictConfig:
        if (name, options) not in self.cache:
            self.cache[name, options] = self.inner.load_configuration(
                name, list(options), RunMode.RUN, from_shell, validate_sweep_overrides=False
            )
        return self.cache[name, options]

    # unchanged

    def get_search_path(self) -> Any:
        return self.inner.get_search_path()

    def get_sources(self) -> Any:
        return self.inner.get_sources()

    def list_groups(self, parent_name: str) -> Any:
        return self.inner.list_groups(parent_name)

    def get_group_options(self, *arguments: Any, **named: Any) -> Any:
        return self.inner.get_group_options(*arguments, **named)

    def compute_defaults_list(self, *arguments: Any, **named: Any) -> Any:
        return self.inner.compute_defaults_list(*arguments, **named)


def _set_override_record(
    composed: DictConfig, given: Sequence[Override], options: Sequence[str]
) -> None:
    """Records the given overrides in Hydra's node, after those of option files."""
    own = composed.hydra
    for kind, lines in (
        ("hydra", [o.input_line for o in given if o.is_hydra_override()]),
        ("task", [o.input_line for o in given if not o.is_hydra_override()]),
    ):
        there = list(own.overrides[kind])
        of_files = there[: len(there) - sum(line in options for line in lines)]
        own.overrides[kind] = [*of_files, *lines]
    form = own.job.config.override_dirname
    own.job.override_dirname = get_overrides_dirname(
        overrides=[o for o in given if not o.is_hydra_override()],
        kv_sep=form.kv_sep, item_sep=form.item_sep, exclude_keys=form.exclude_keys,
    )  # fmt: skip
