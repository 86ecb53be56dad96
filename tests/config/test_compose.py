"""What is composed of a command line is what Hydra makes of it."""

from __future__ import annotations

import hydra
import pytest
from omegaconf import OmegaConf

from recipe.config import compose, option_files

LINES = [
    (),
    ("clip=norm",),
    ("seed=3", "clip=norm", "clip.max_norm=0.5", "epochs=2"),
    ("clip.max_norm=0.5", "clip=norm", "clip.max_norm=2"),  # whatever the order, the last one holds
    ("+optimizer.foreach=true", "optimizer=adam", "optimizer.betas=[0.5,0.9]"),
    ("experiment=few_digits", "epochs=1", "model.widths=[2]"),
    ("hydra/launcher=ray", "hydra.launcher.remote.num_cpus=3", "hydra.job.name=${seed}"),
    ("output_dir=${oc.env:HOME}/x", "data=image_folder", "data.path='a=b'"),
]


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_composed_config_matches_hydra(line: tuple[str, ...]) -> None:
    def container(config: object) -> object:
        return OmegaConf.to_container(config, resolve=False)

    compose.register_user_conf()
    folder = str(option_files.builtin_conf_dir())
    with hydra.initialize_config_dir(folder, version_base="1.3", job_name="recipe"):
        theirs = hydra.compose("config", list(line), return_hydra_config=True)
    with compose.composition_context():
        for _ in range(2):  # what is kept while composing isn't changed by it
            ours = compose.compose_config(line)
            assert container(ours) == container(theirs)
            ours.seed = 99
