"""A user's own `data`: any shape of inputs, checked for what it must return, recognised by it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import commands
import numpy as np
import pytest
import torch
from torch import Tensor

from recipe.components.data import Batch, Data, InMemory
from recipe.components.data.dataset import AlwaysReadable, Split
from recipe.components.data.validation import check_data, hash_data

PARTS = """
import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset
from recipe.components.data import Data, InMemory

def made(x, y):
    return Data(train=InMemory(x[:24], y[:24]), val=InMemory(x[24:], y[24:]), classes=("a", "b"),
                channels=1, size=(1, 5), mean=(0.0,), std=(1.0,), digest="")

def table(split):
    x = torch.randn(32, 5, generator=split)
    return made(x, (x[:, 0] > 0).long())

def tokens(split):
    x = torch.randint(9, (32, 5), generator=split)
    return made(x, (x[:, 0] > 4).long())

def file(split, *, path):
    x = torch.from_numpy(np.load(path))
    return made(x, (torch.arange(32) % 2))

def datasets(split):
    data = table(split)
    return TensorDataset(data.train.inputs), TensorDataset(data.val.inputs)

def dataset_inside(split):
    data = table(split)
    return Data(**{**vars(data), "val": TensorDataset(data.val.inputs, data.val.targets)})

def float_targets(split):
    data = table(split)
    return Data(**{**vars(data), "val": InMemory(data.val.inputs, torch.zeros(8))})

def too_few_targets(split):
    data = table(split)
    return Data(**{**vars(data), "train": InMemory(data.train.inputs, torch.zeros(3).long())})

def columns(split):
    return Data(**{**vars(table(split)), "size": (5,)})

def for_tables(*, classes):
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, classes))

class ForTokens(nn.Module):
    def __init__(self, *, classes):
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, classes)
    def forward(self, x):
        return self.head(self.embedding(x).mean(1))

class ForPairs(nn.Linear):
    def __init__(self, *, classes):
        super().__init__(5, classes)
    def forward(self, x):
        if len(x) < 2:
            raise RuntimeError("two samples or more are needed")
        return super().forward(x)
"""

OPTIONS = ("table", "tokens", "datasets", "dataset_inside", "float_targets", "too_few_targets",
           "columns")  # fmt: skip
SETTINGS = "classes: auto\nbatch_size: 8\neval_batch_size: 8\n"
RUN = (*commands.CPU, "tracking=none", "trust=[parts]", "epochs=1", "model=for_tables")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {"parts.py": PARTS}
    files |= {f"conf/data/{each}.yaml": f"_target_: parts.{each}\n{SETTINGS}" for each in OPTIONS}
    files["conf/data/file.yaml"] = f"_target_: parts.file\npath: null\n{SETTINGS}"
    for option, name in (("tables", "for_tables"), ("tokens", "ForTokens"), ("pairs", "ForPairs")):
        files[f"conf/model/for_{option}.yaml"] = f"_target_: parts.{name}\nclasses: auto\n"
    return commands.project(tmp_path_factory.mktemp("home"), files)


@pytest.mark.parametrize("kind", ["table", "tokens"])
def test_tabular_and_token_inputs_are_planned_summarised_and_trained(home: Path, kind: str) -> None:
    options = (*RUN, f"data={kind}", f"model=for_{kind.removesuffix('s')}s")
    planned = commands.run(home, "plan", *options, "summary=true")
    assert (planned.status, planned.err) == (0, "")
    assert "Linear" in planned.out and "[1, 2]" in planned.out  # the output's shape
    done = commands.run(home, *options)
    assert (done.status, done.err) == (0, "")
    assert "Result  val/accuracy" in done.out


def test_failed_model_summary_is_reported_and_run_trains(home: Path) -> None:
    options = (*RUN, "data=table", "model=for_pairs", f"output_dir={home / 'pairs'}")
    planned = commands.run(home, "plan", *options)
    assert (planned.status, planned.err) == (0, "")
    reason = "RuntimeError for one sample: two samples or more are needed"
    assert (
        f"Size: 12 of 12 parameters trainable, multiply-adds could not be counted ({reason})"
        in " ".join(planned.out.split())
    )
    done = commands.run(home, *options)
    assert (done.status, done.err) == (0, "")
    (run,) = (home / "pairs" / "runs").glob("*")
    assert (run / "summary.txt").read_text().endswith(f"could not be counted: {reason}\n")
    (first, *_) = commands.read_lines(run / "metrics.jsonl")
    assert first["metrics"] == {"params/trainable": 12, "params/total": 12}


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("datasets", "returns a tuple of TensorDataset, TensorDataset; return "
                     "recipe.components.data.Data(train=..., val=..., classes=..., channels=..., "
                     "size=..., "
                     "mean=..., std=...), with train and val as "
                     "recipe.components.data.InMemory(inputs, targets)"),
        ("dataset_inside", "returns a TensorDataset as val, which has no targets and no batches; "
                           "return recipe.components.data.InMemory(inputs, targets), or a class "
                           "with the "
                           "methods of recipe.components.data.Split"),
        ("float_targets", "returns val with targets that are float32 of shape (8,); return "
                          "one class index per sample, torch.int64 of shape (8,)"),
        ("too_few_targets", "returns train with targets that are int64 of shape (3,); return "
                            "one class index per sample, torch.int64 of shape (24,)"),
        ("columns", "returns size=(5,); return (height, width)"),
    ],
)  # fmt: skip
def test_invalid_data_return_value_is_reported_in_one_line(
    home: Path, tmp_path: Path, option: str, problem: str
) -> None:
    done = commands.run(home, *RUN, f"data={option}", f"output_dir={tmp_path / 'outputs'}")
    assert (done.status, done.problems) == (2, [f"recipe: data={option}: {problem}"])


def test_data_without_digest_are_identified_by_content(home: Path, tmp_path: Path) -> None:
    inputs = np.random.default_rng(0).normal(size=(32, 5)).astype(np.float32)
    file = tmp_path / "table.npy"
    options = (*RUN, "data=file", f"data.path={file}", f"output_dir={tmp_path / 'outputs'}")
    same_run = []
    for content in (inputs, inputs, inputs[::-1]):
        np.save(file, content)
        done = commands.run(home, *options)
        assert done.status == 0, done.err
        same_run.append("Again   as " in done.out)
    assert same_run == [False, True, False]


@dataclass(frozen=True)
class Streamed(AlwaysReadable):
    """A split that isn't in memory."""

    inputs: Tensor
    targets: Tensor
    noise: float = 0.0

    def __len__(self) -> int:
        return len(self.targets)

    def batches(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        fresh = torch.Generator()
        fresh.seed()
        for indices in batches:
            inputs = self.inputs[indices]
            noise = self.noise * torch.rand(inputs.shape, generator=fresh)
            yield inputs + noise, self.targets[indices]


def test_hash_data_depends_on_every_part_of_the_data() -> None:
    inputs, targets = torch.rand(6, 1, 2, 2), torch.tensor([0, 1] * 3)
    split = InMemory(inputs, targets)
    data = Data(
        train=split, val=split, classes=("a", "b"), channels=1, size=(2, 2), mean=(0.0,),
        std=(1.0,),
    )  # fmt: skip
    other = inputs.clone()
    other[3, 0, 1, 1] += 1
    variants = [
        data,
        replace(data, digest="mine"),
        replace(data, val=InMemory(other, targets)),
        replace(data, train=InMemory(inputs, 1 - targets)),
        replace(data, train=InMemory(inputs, targets, torch.square)),
        replace(data, test=split),
        replace(data, classes=("a", "c")),
        replace(data, mean=(0.5,)),
        replace(data, train=Streamed(inputs, targets)),
        replace(data, train=Streamed(other, targets)),
        replace(data, train=Streamed(inputs, 1 - targets)),
    ]
    found = [hash_data(each) for each in variants]
    assert len({*found}) == len(found)
    assert [hash_data(each) for each in variants] == found


def test_hash_data_ignores_inputs_with_random_variation() -> None:
    inputs, targets = torch.rand(6, 1, 2, 2), torch.tensor([0, 1] * 3)
    split = Streamed(inputs, targets, noise=0.1)
    data = Data(
        train=split, val=split, classes=("a", "b"), channels=1, size=(2, 2), mean=(0.0,),
        std=(1.0,),
    )  # fmt: skip
    assert hash_data(data) == hash_data(data)


class MinimalSplit:
    """What a user's split must have, and nothing else."""

    targets = torch.tensor([0, 1, 1])

    def __len__(self) -> int:
        return 3

    def batches(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        for indices in batches:
            yield indices.float()[:, None], self.targets[indices]


def test_minimal_split_is_adapted() -> None:
    data = check_data(
        Data(
            train=InMemory(torch.zeros(3, 1), torch.tensor([0, 1, 1])),
            val=MinimalSplit(),  # type: ignore[arg-type]
            classes=("a", "b"), channels=1, size=(1, 1), mean=(0.0,), std=(1.0,),
        )
    )  # fmt: skip
    assert isinstance(data.train, InMemory) and isinstance(data.val, Split)
    assert (data.val.skips_unreadable, data.val.unreadable, len(data.val)) == (False, {}, 3)
    assert data.val.packages == {MinimalSplit.__module__}
    assert data.val.first_readable_indices(4).tolist() == [0, 1, 2, 0]
    ((samples, inputs),) = data.val.iterate_readable_inputs([torch.tensor([2, 1])])
    assert samples == [2, 1] and inputs.tolist() == [[2.0], [1.0]]
