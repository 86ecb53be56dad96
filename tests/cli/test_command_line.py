import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import commands
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from recipe.config import option_files
from recipe.config.groups import GROUPS

BIN = Path(sys.executable).parent


def refused(folder: Path, *arguments: str) -> list[str]:
    """What is said of a command line that leaves nothing behind."""
    done = commands.run(folder, *arguments)
    assert (done.status, done.out, list(folder.iterdir())) == (2, "", [])
    assert all(line.startswith("recipe: ") for line in done.problems)
    return [line.removeprefix("recipe: ") for line in done.problems]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            "trust={a:1}",
            "trust={a:1}: the value has another type; give a list [a,b] for a list, a "
            "mapping {a: 1} for a mapping",
        ),
        # keys
        ("sede=1", "sede=1: no such key; did you mean seed or scheduler?"),
        ("optimzer.lr=1", "optimzer.lr=1: no such key; did you mean optimizer?"),
        (
            "optimizer.momentun=0.5",
            "optimizer.momentun=0.5: optimizer=sgd has no setting momentun; "
            "did you mean momentum?",
        ),
        (
            "clip=agc clip.max_norm=2",
            "clip.max_norm=2: clip=agc has no setting max_norm; it is a setting of clip=norm",
        ),
        (
            "clip=none clip.max_norm=2",
            "clip.max_norm=2: clip=none takes no settings; it is a setting of clip=norm",
        ),
        (
            "model.widths.4=8",
            "model.widths.4=8: model=vgg has no setting widths.4; "
            "did you mean widths?",
        ),
        # groups and options
        ("clp=norm", "clp=norm: no such key; did you mean clip?"),
        ("clip=nrom", "clip=nrom: no such option; did you mean norm?"),
        ("clip=zzz", "clip=zzz: no such option; there are agc, none, norm, value"),
        ("experiment=transfre", "experiment=transfre: no such option; did you mean transfer?"),
        ("clip/norm=2", "clip/norm=2: no such group; did you mean clip?"),
        # behind + and ++, which Hydra would take
        ("+clp=norm", "+clp=norm: no such key; did you mean clip?"),
        ("+sede=1", "+sede=1: no such key; did you mean seed or scheduler?"),
        ("++seed=1", "++seed=1: write seed=<value>; seed is in every spec already"),
        ("+clip=norm", "+clip=norm: write clip=<option>; clip is in every spec already"),
        ("++clip=norm", "++clip=norm: write clip=<option>; clip is in every spec already"),
        ("clip=none +clip.max_norm=2", "clip.max_norm: clip=none has no such setting; leave it "
                                       "out"),
        (
            "+optimizer.nestrov=true",
            "optimizer.nestrov: optimizer=sgd has no such setting; did you mean nesterov?",
        ),
        ("+optimizer.maximize=3", "optimizer.maximize must be true or false, got 3; give another "
                                  "value"),
        # removed
        ("~clip", "~clip: every run has a clip; to turn it off, use clip=none"),
        ("~data", "~data: every run has a data; choose another option"),
        ("~seed", "~seed: a setting can't be removed; give it another value"),
        # types and ranges
        ("epochs=1.5", "epochs must be a whole number, got 1.5; use 12, the default"),
        ("epochs=0", "epochs must be greater than 0, got 0; use 12, the default"),
        ("seed=true", "seed must be a whole number, got true; use 0, the default"),
        ("name=3", "name must be a string, got 3; use null, the default"),
        ("trust=mine", "trust must be a list of packages, got 'mine'; write trust=[mypackage]"),
        ("trust=[3]", "trust must be a list of packages, got [3]; write trust=[mypackage]"),
        ("optimizer.lr=-1", "optimizer.lr: Invalid learning rate: -1; sgd's own is 0.05"),
        (
            "optimizer.lr=fast",
            "optimizer.lr must be a number, got 'fast'; use 0.05, the default (learning rate, "
            "before "
            "any schedule)",
        ),
        (
            "model.widths=[4,x]",
            "model.widths[1] must be a whole number, got 'x'; use [16, 32, 64, 64], the default "
            "(channels of each block; every block ends by halving height and width)",
        ),
        (
            "freeze=gradual freeze.stages=[{names:['blocks.0.*'],epoch:x}]",
            "freeze.stages[0].epoch must be a whole number, got 'x'; give another value "
            "(number of epochs after which these names or patterns are unfrozen)",
        ),
        (
            "freeze=gradual freeze.stages=[{names:['blocks.0.*',3],epoch:1}]",
            "freeze.stages[0].names[1] must be a string, got 3; give another value "
            "(number of epochs after which these names or patterns are unfrozen)",
        ),
        (
            "optimizer.lr=nan",
            "optimizer.lr must be a finite number, got nan; use 0.05, the default (learning rate, "
            "before any schedule)",
        ),
        (
            "+clip=nrm",
            "+clip=nrm: write clip=<option>; clip is in every spec already; did you mean norm?",
        ),
        (
            "optimizer=adam optimizer.betas=[0.9]",
            "optimizer.betas must be a list of 2 values, got [0.9]; use [0.9, 0.999], the default "
            "(decay of the running mean of the gradient and of its square)",
        ),
        (
            "scheduler=plateau scheduler.monitor=train/loss",
            "scheduler.monitor must be 'val/loss' or 'val/accuracy', got 'train/loss'; use "
            "val/loss, the "
            "default (the metric; must fit `mode`)",
        ),
        (
            "scheduler=plateau scheduler.per=step",
            "scheduler.per must be epoch, as val/loss is measured after every epoch, got step; use "
            "scheduler.per=epoch",
        ),
        ("+scheduler.monitor=val/loss", "+scheduler.monitor=val/loss: scheduler=constant has no "
         "setting monitor; it is a setting of scheduler=plateau"),
        (
            "clip=agc clip.eps=1e39",
            "clip.eps must be within the range of 32-bit floats, +-3.4e38, got 1e+39; use 0.001, "
            "the default (minimum of |weight|, so that layers with zero weights can be trained)",
        ),
        (
            f"model.widths=[4,{2**63}]",
            "model.widths[1] must be a whole number of at most 64 bits; give a smaller one",
        ),
        (
            "tracking=server tracking.uri=localhost:5000",
            "tracking.uri must be a string of the form ^https?://[^/], got 'localhost:5000'; use "
            "http://127.0.0.1:5000, the default (address of the server)",
        ),
        (
            "tracking=local tracking.experiment=",
            "tracking.experiment must be at least 1 long, got ''; use recipe, the default "
            "(MLflow experiment of the runs)",
        ),
        # Hydra's own
        (
            "hydra.searchpath=[more]",
            "hydra.searchpath=[more]: recipe sets this itself; you can set "
            "hydra.launcher, hydra.sweeper, hydra.job, hydra.job_logging, hydra.hydra_logging",
        ),
        (
            "hydra=1",
            "hydra=1: recipe sets this itself; you can set "
            "hydra.launcher, hydra.sweeper, hydra.job, hydra.job_logging, hydra.hydra_logging",
        ),
        # missing
        ("epochs=???", "epochs: Missing mandatory value: epochs"),
        ("optimizer.lr=???", "optimizer.lr: Missing mandatory value: lr"),
        # several values
        ("seed=0,1", "seed=0,1: several values need a sweep; add -m"),
        (
            "plan 'seed=range(3)'",
            "seed=range(3): plan takes a single run; give one value, or run all with "
            "python -m recipe -m",
        ),
        *(
            (
                f"{verb}'optimizer.lr=interval(0.1,0.2)'",
                "optimizer.lr=interval(0.1,0.2): an interval is for python -m recipe search; give "
                "one value, or use search instead",
            )
            for verb in ("", "plan ")
        ),
        # what is no override
        ("plan clip", "clip: can't be read as an override; write key=value"),
        ("a\nb=1", "a b=1: can't be read as an override; quote the special characters of the "
                   "shell and of Hydra"),
        (
            "a=b{c",
            "a=b{c: can't be read as an override; quote the special characters of the shell and "
            "of Hydra",
        ),
        (
            "plna",
            "plna: no such verb; did you mean plan or replay?; "
            "without a verb, give settings as key=value",
        ),
        ("ui prot=80", "ui: prot=80: no such argument; did you mean port?"),
        # what can only be known once the parts are made
        (
            "freeze=by_name freeze.names=[convolution9_1]",
            "freeze.names: 'convolution9_1' matches none of the 34 parameters "
            "(nearest: convolution4_1, convolution3_1, convolution2_1)",
        ),
        (
            "augment=mixup loss=mse_one_hot loss.takes=[indices]",
            "augment=mixup gives probabilities, but loss=mse_one_hot takes indices "
            "(loss.takes); use loss=cross_entropy, or augment=none",
        ),
    ],
)  # fmt: skip
def test_invalid_command_line_gives_one_line_error_with_remedy(
    tmp_path: Path, arguments: str, problem: str
) -> None:
    words = [word.strip("'") for word in arguments.split(" ")]
    lines = refused(tmp_path, *words)
    assert lines == [problem]


def test_all_spec_problems_are_reported_together(tmp_path: Path) -> None:
    lines = refused(
        tmp_path, "clp=norm", "optimizer.lrr=3", "clip=norm", "clip.max_norm=-1",
        "scheduler=setp", "freeze=by_name", "freeze.names=[nothing]", "~device",
    )  # fmt: skip
    said = [line.replace("=", ":").split(":")[0].split(" ")[0] for line in lines]
    assert sorted(said) == sorted(
        ["clp", "optimizer.lrr", "clip.max_norm", "scheduler", "freeze.names", "~device"]
    )


def test_missing_gpu_does_not_hide_other_problems(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    lines = refused(
        tmp_path, "device=gpu", "freeze=by_name", "freeze.names=[nothing]", "param_groups=by_name",
        "param_groups.rules=[{match: nowhere, lr: 1}]",
    )  # fmt: skip
    assert [line.split(":")[0] for line in lines] == [
        "device.order", "freeze.names", "param_groups.rules[0]",
    ]  # fmt: skip


def test_diverged_run_reports_step_and_exits_with_1(tmp_path: Path) -> None:
    done = commands.run(tmp_path, *commands.QUICK, "tracking=none", "optimizer.lr=1e30")
    (problem,) = done.problems
    assert done.status == 1 and problem.startswith("recipe: step 2 (epoch 1, batch 2): the ")


def test_epoch_line_shows_the_mean_training_loss(tmp_path: Path) -> None:
    done = commands.run(tmp_path, *commands.QUICK, "tracking=none")
    (run,) = commands.run_dirs(tmp_path)
    points = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [p["metrics"]["train/loss"] for p in points if "train/loss" in p["metrics"]]
    assert len(losses) == 4
    shown = [line.split()[3] for line in done.out.splitlines() if line.startswith("epoch ")]
    means = [(losses[0] + losses[1]) / 2, (losses[2] + losses[3]) / 2]
    assert shown == [f"{mean:.4f}" for mean in means]


def test_run_name_lists_options_other_than_defaults(tmp_path: Path) -> None:
    options = ("loss=mse_one_hot", "model=mlp", "optimizer=adam", "clip=norm", "data.size=8")
    done = commands.run(tmp_path, "plan", *commands.CPU, *options)
    name = "model=mlp loss=mse_one_hot optimizer=adam clip=norm"
    assert done.out.startswith(f"{name}: seed 0")


def test_plus_prefix_passes_setting_to_torch(tmp_path: Path) -> None:
    done = commands.run(tmp_path, "plan", *commands.QUICK, "+optimizer.maximize=true")
    assert done.status == 0 and "maximize=True" in done.out


@pytest.mark.integration
def test_rejected_command_exits_with_2_without_traceback(tmp_path: Path) -> None:
    done = commands.spawn(tmp_path, "clip=nrom", "+sede=1", "clip=norm,value")
    assert done.status == 2 and done.out == "" and not list(tmp_path.iterdir())
    assert done.problems == ["recipe: clip=norm,value: several values need a sweep; add -m"]


def test_help_lists_every_group_and_option_with_its_first_comment(tmp_path: Path) -> None:
    lines = commands.run(tmp_path, "--help").out.splitlines()
    assert "  vgg_first2    Freeze the first two convolutions of a VGG: " in "\n".join(lines)
    for group in (*GROUPS, "experiment"):
        at = lines.index(group)
        files = sorted((commands.CHECKOUT / "conf" / group).glob("*.yaml"))
        assert files
        for line, file in zip(lines[at + 1 :], files, strict=False):
            mark, name, comment = line[0], *line[2:].split(maxsplit=1)
            text = file.read_text(encoding="utf-8").removeprefix("# @package _global_\n")
            assert name == file.stem and mark in (" ", "*")
            assert text.startswith(f"# {comment[:60]}")
    assert "* none   No clipping" in "\n".join(lines) and "  norm   Norm" in "\n".join(lines)


@pytest.mark.integration
def test_help_and_override_errors_import_neither_torch_nor_mlflow(tmp_path: Path) -> None:
    code = (
        "import sys; from recipe.cli.main import run_command_line; "
        "print(run_command_line(sys.argv[1:]));"
        "print(sorted({'torch', 'mlflow', 'matplotlib'} & set(sys.modules)))"
    )
    for argument, status in (("--help", 0), ("seed=0,1", 2)):
        done = commands.spawn(tmp_path, argument, program=(sys.executable, "-c", code))
        assert done.out.splitlines()[-2:] == [str(status), "[]"]


@pytest.mark.parametrize(
    ("flags", "kind", "package"),
    [(("--cfg", "job"), "job", ""), (("-c", "hydra"), "hydra", ""),
     (("--cfg=all", "--resolve", "-p", "clip"), "all", "clip")],
)  # fmt: skip
def test_hydra_cfg_flag_prints_the_composed_config(
    tmp_path: Path, flags: tuple[str, ...], kind: str, package: str
) -> None:
    overrides = ["clip=norm", "clip.max_norm=2", "+optimizer.dampening=0.5"]
    done = commands.run(tmp_path, *flags, *overrides)
    assert (done.status, done.err) == (0, "")
    with initialize_config_dir(
        str(option_files.builtin_conf_dir()), version_base="1.3", job_name="recipe"
    ):
        composed = compose("config", overrides, return_hydra_config=True)
    wanted = OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"])
    shown = OmegaConf.create(done.out)
    if kind == "hydra":
        assert list(shown) == ["hydra"]
        assert shown.hydra.overrides == composed.hydra.overrides
        assert shown.hydra.launcher == composed.hydra.launcher
    else:
        assert shown == (wanted[package] if package else wanted)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("clip=nrom", "clip=nrom: no such option; did you mean norm?"),
        ("sede=1", "sede=1: no such key; did you mean seed or scheduler?"),
        ("clip.max_norm=2",
         "clip.max_norm=2: clip=none takes no settings; it is a setting of clip=norm"),
        ("epochs=1,2", "epochs=1,2: Hydra's flags show a single run; give one value"),
        ("-m epochs=1,2",
         "-m: Hydra's flags show a single run; leave -m out, and give one value each"),
        ("epochs", "epochs: can't be read as an override; write key=value"),
    ],
)  # fmt: skip
def test_hydra_cfg_flag_reports_the_same_errors_as_a_run(
    tmp_path: Path, line: str, problem: str
) -> None:
    assert refused(tmp_path, "--cfg", "job", *line.split()) == [problem]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("-sc", "--shell-completion takes one of install=bash, "),
        ("-sc install", "--shell-completion takes one of "),
        ("-sc install=tcsh", "--shell-completion takes one of "),
        ("-sc install=bash uninstall=bash", "--shell-completion takes one of "),
        ("-sc query=bash", "--shell-completion: query=bash is for the shell, which sets COMP_LINE"),
        ("-c", "--cfg/-c: expected one argument; python -m recipe --hydra-help lists"),
        ("--cfg=x", "--cfg/-c: invalid choice: 'x' (choose from 'job', 'hydra', 'all'); "),
        ("--cfg job --info", "--cfg and --info: Hydra answers one at a time"),
        ("--cfg job --run", "--cfg and --run: Hydra answers one at a time"),
        ("-i x", "--info/-i: invalid choice: 'x' (choose from 'all', 'config', "),
        ("--info --resolve", "--resolve is a flag of --cfg; add --cfg job"),
        ("--hydra-help -p clip", "--package is a flag of --cfg; add --cfg job"),
        ("--hydra-help x", "x: can't be read as an override; write key=value"),
        ("--cfg job -p", "--package/-p: expected one argument; "),
        ("--cfg job -p nope", "--package: nope is not a mapping of --cfg job; leave it out"),
        ("--cfg job -p seed", "--package: seed is not a mapping of --cfg job; leave it out"),
        ("--cfg job -p hydra", "--package: hydra is not a mapping of --cfg job; leave it out"),
        ("--cfg job --resolve=3", "--resolve: ignored explicit argument '3'; "),
        ("--cfg job --foo", "unrecognized arguments: --foo; "),
        ("--cfg job -cd /tmp", "--config-dir: recipe reads its own option files and those of "),
        ("--info -cn x", "--config-name: recipe reads its own option files and those of "),
        ("--info -cp x", "--config-path: recipe reads its own option files and those of "),
        ("--info --experimental-rerun x", "--experimental-rerun: recipe reads its own option "),
    ],
)  # fmt: skip
def test_invalid_hydra_flags_are_rejected_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, said: str
) -> None:
    monkeypatch.delenv("COMP_LINE", raising=False)
    done = commands.run(tmp_path, *flags.split())
    (line,) = done.problems
    assert (done.status, done.out) == (2, "")
    assert line.startswith(f"recipe: {said}")


@pytest.mark.integration
def test_console_script_behaves_like_python_m_recipe(tmp_path: Path) -> None:
    for arguments in (["--help"], ["seed=0,1"]):
        module = commands.spawn(tmp_path, *arguments)
        script = commands.spawn(tmp_path, *arguments, program=(str(BIN / "recipe"),))
        assert module == script


@pytest.mark.integration
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("recipe fre", ["freeze.", "freeze="]),
        ("recipe freeze=vgg", ["freeze=vgg_first2"]),
        ("recipe plan freeze=vgg", ["freeze=vgg_first2"]),
        ("recipe -m clip=n", ["clip=none", "clip=norm"]),
    ],
)
def test_tab_completion_offers_groups_and_options(
    tmp_path: Path, typed: str, offered: list[str]
) -> None:
    done = commands.spawn(
        tmp_path, "-sc", "query=bash", program=(str(BIN / "recipe"),),
        COMP_LINE=typed, COMP_POINT=str(len(typed)),
    )  # fmt: skip
    assert done.out.split() == offered


BROKEN = """
import torch

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1024, 10)

    def forward(self, images):
        if self.training and images.shape[0] == 36:
            raise RuntimeError("the second batch is too much")
        return self.linear(images.flatten(1))

def model():
    return Model()
"""


@pytest.mark.integration
def test_training_exception_is_reported_and_run_recorded_as_failed(tmp_path: Path) -> None:
    commands.project(
        tmp_path, {"parts.py": BROKEN, "conf/model/mine.yaml": "_target_: parts.model\n"}
    )
    done = commands.spawn(
        tmp_path, *commands.CPU, "trust=[parts]", "model=mine", "data.train_size=100"
    )
    raised = "model=mine raised RuntimeError: the second batch is too much after 1 step"
    hint = "RECIPE_DEBUG=1 prints the traceback"
    assert (done.status, done.problems) == (1, [f"recipe: {raised}; {hint}"])
    (run,) = commands.run_dirs(tmp_path)
    assert commands.read_json(run / "run.json")["status"] == "FAILED"
    assert len(commands.read_lines(run / "metrics.jsonl")) == 2  # the sizes, and one step
    assert "the second batch is too much" in (run / "error.txt").read_text()
    assert mlflow_status(tmp_path, run) == "FAILED"


@pytest.mark.integration
@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        (signal.SIGINT, 130, "recipe: interrupted"),
        pytest.param(signal.SIGTERM, 143, "recipe: terminated", marks=pytest.mark.long),
    ],
)
def test_signal_records_run_as_killed(
    tmp_path: Path, sent: signal.Signals, status: int, said: str
) -> None:
    started = commands.start(tmp_path, *commands.QUICK, "epochs=100000")
    wait_for_steps(tmp_path, started)
    started.send_signal(sent)
    _, err = started.communicate(timeout=120)
    first = "recipe: stopping after this step; again to stop at once"
    assert (started.returncode, err.splitlines()) == (status, [first, said])
    (run,) = commands.run_dirs(tmp_path)
    assert commands.read_json(run / "run.json")["status"] == "KILLED"
    assert mlflow_status(tmp_path, run) == "KILLED"


def wait_for_steps(folder: Path, started: subprocess.Popen[str]) -> None:
    """Until the run has trained for a few steps."""
    for _ in range(1200):
        journals = list(folder.glob("outputs/runs/*/metrics.jsonl"))
        if journals and len(journals[0].read_text().splitlines()) > 5:
            return
        assert started.poll() is None, started.communicate()
        time.sleep(0.1)
    raise AssertionError("no step within two minutes")


def mlflow_status(folder: Path, run: Path) -> str:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/outputs/mlflow.db")
    status: str = client.get_run(commands.read_json(run / "sent.json")["mlflow_run_id"]).info.status
    return status


def test_in_process_command_leaves_process_state_unchanged(tmp_path: Path) -> None:
    """Of the tests' own `commands.run`: else one test could change what another one sees."""
    before = dict(os.environ), list(sys.path), torch.get_num_threads(), Path.cwd()
    commands.run(tmp_path, "plan", *commands.QUICK, "device.threads=2")
    assert before == (
        dict(os.environ), list(sys.path), torch.get_num_threads(), Path.cwd(),
    )  # fmt: skip
