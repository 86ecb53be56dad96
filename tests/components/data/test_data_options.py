"""What all option files of the data group have in common."""

from pathlib import Path
from typing import Any, get_type_hints

import hydra
import pytest
import torch
from hydra.utils import get_method
from omegaconf import OmegaConf
from pydantic import TypeAdapter

CONF = Path(__file__).parents[3] / "conf"
OPTIONS = sorted(file.stem for file in (CONF / "data").glob("*.yaml"))
OF_THE_ENGINE = {"_target_", "classes", "batch_size", "eval_batch_size"}


def composed(option: str) -> dict[str, Any]:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(hydra.compose(f"data/{option}").data, resolve=True)
    assert isinstance(config, dict)
    return {str(name): value for name, value in config.items()}


def test_all_builtin_data_options_exist() -> None:
    expected = {
        "digits",
        "digits_low",
        "digits_high",
        "image_folder",
        "cifar10",
        "arrays",
        "random",
    }
    assert expected <= set(OPTIONS)


@pytest.mark.parametrize("option", OPTIONS)
def test_data_option_sets_all_function_parameters_with_declared_types(option: str) -> None:
    settings = composed(option)
    hints = get_type_hints(get_method(settings["_target_"]), include_extras=True)
    assert set(hints) - {"split", "return"} == set(settings) - OF_THE_ENGINE
    assert settings.keys() >= OF_THE_ENGINE
    for name in settings.keys() - OF_THE_ENGINE:
        if settings[name] == "auto":  # as the weights want it: the engine fills it in
            continue
        TypeAdapter(hints[name]).validate_python(settings[name], strict=True)


@pytest.mark.parametrize("option", OPTIONS)
def test_data_option_file_describes_itself_and_each_setting(option: str) -> None:
    first, *rest = (CONF / "data" / f"{option}.yaml").read_text().splitlines()
    assert first.startswith("# ") and first.endswith(".")
    for line in rest:
        assert "  # " in line or " # " in line or line.startswith(("_target_:", "defaults:"))
        assert len(line) <= 100


@pytest.mark.parametrize(
    ("option", "classes"),
    [("digits", "0123456789"), ("digits_low", "01234"), ("digits_high", "56789")],
)
def test_digits_options_load_with_default_settings(option: str, classes: str) -> None:
    settings = composed(option)
    part = {name: settings[name] for name in settings.keys() - OF_THE_ENGINE}
    data = get_method(settings["_target_"])(torch.Generator().manual_seed(0), **part)
    assert data.classes == tuple(classes) and (data.channels, data.size) == (1, (32, 32))


def test_random_data_has_the_default_number_of_classes() -> None:
    settings = composed("random")
    assert settings["n_classes"] == settings["classes"] == 10
