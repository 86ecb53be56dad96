"""Who reads which rows of a batch, and what a process of several takes of its machine."""

from __future__ import annotations

import pytest
import torch

from recipe.components import device
from recipe.components.distributed.ddp import DDPStrategy
from recipe.config.world_size import World
from recipe.training.collectives import MultiProcess


def several(size: int, *, early: bool = True) -> list[MultiProcess]:
    how = DDPStrategy(sync_batchnorm=False, unused_parameters=False)
    return [
        MultiProcess(World(rank, size, rank, size), how, shards_before_read=early)
        for rank in range(size)
    ]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchrun starts the second of two processes."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    for name, value in {
        "RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": 1,
        "OMP_NUM_THREADS": 1,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))


def test_seven_samples_are_sharded_as_three_two_and_two() -> None:
    batch = torch.tensor([50, 51, 52, 53, 54, 55, 56])
    ranks = several(3)
    shares = [each.shard_batch(batch, 7).tolist() for each in ranks]
    assert shares == [[50, 51, 52], [53, 54], [55, 56]]
    assert [each.local_sample_count(7) for each in ranks] == [3, 2, 2]
    assert ranks[0].shard_sizes(7) == [3, 2, 2]


def test_of_one_sample_two_of_three_processes_only_take_part() -> None:
    ranks, batch = several(3), torch.tensor([50])
    assert [each.shard_batch(batch, 1).tolist() for each in ranks] == [[50], [50], [50]]
    assert [each.local_sample_count(1) for each in ranks] == [1, 0, 0]
    loss = torch.tensor(6.0)
    assert [each.scale_loss(loss, 1).item() for each in ranks] == [18.0, 0.0, 0.0]


def test_the_mean_of_scaled_losses_over_processes_is_that_of_the_batch() -> None:
    # losses 1 ... 5 in shares of 3 and 2: means 2 and 4.5, weighed by 3 * 2 / 5 and 2 * 2 / 5
    first, second = several(2)
    weighed = first.scale_loss(torch.tensor(2.0), 5), second.scale_loss(torch.tensor(4.5), 5)
    assert [each.item() for each in weighed] == pytest.approx([2.4, 3.6])
    assert sum(each.item() for each in weighed) / 2 == pytest.approx((1 + 2 + 3 + 4 + 5) / 5)


def test_a_batch_is_sharded_before_it_is_read_if_nothing_mixes_its_samples() -> None:
    batch = torch.tensor([50, 51, 52, 53])
    early, late = several(2)[1], several(2, early=False)[1]
    assert early.indices_to_read(batch).tolist() == [52, 53]
    assert early.shard_batch(early.indices_to_read(batch), 4).tolist() == [52, 53]
    assert late.indices_to_read(batch).tolist() == [50, 51, 52, 53]
    assert late.shard_batch(late.indices_to_read(batch), 4).tolist() == [52, 53]


@pytest.mark.usefixtures("launched")
def test_each_of_two_processes_takes_half_of_cores_and_own_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert World.from_environment() == World(rank=1, size=2, local_rank=1, local_size=2)
    device._default_thread_count.cache_clear()
    assert device.thread_count("auto") == max(1, device.count_available_cores() // 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # not torchrun's
    device._default_thread_count.cache_clear()
    assert device.thread_count("auto") == 3
    device._default_thread_count.cache_clear()
    with pytest.raises(ValueError, match=r"^device.order: 2 processes .* only 1 GPUs"):
        device.select_cuda_device(1, "device.order")


@pytest.mark.parametrize("lacking", ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"])
@pytest.mark.usefixtures("launched")
def test_without_torchruns_variables_there_is_one_process(
    monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    monkeypatch.delenv(lacking)
    assert World.from_environment().size == 1
