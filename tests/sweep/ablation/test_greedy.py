from pathlib import Path
from typing import Any

import commands
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.store import sweep_jobs
from recipe.sweep.ablation import greedy
from recipe.sweep.ablation.variants import Trick, Variant

PARTS = """
import torch

def boost(params, *, factor: float, seed: int, fails: int):
    norm = torch.nn.utils.get_total_norm([p.grad for p in params])
    if seed == fails:
        raise RuntimeError("it is to fail")
    for p in params:
        p.grad.mul_(factor)
    return norm


from recipe.components.contract import lr_factor

@lr_factor
def off(progress, *, factor: float):
    return factor
"""

PROJECT = {
    "parts.py": PARTS,
    "conf/project/default.yaml": "trust: [parts]\n",
    "conf/clip/boost.yaml": (
        "# Larger gradients, for a learning rate that is far too small.\n"
        "_target_: parts.boost\nfactor: 50.0\nseed: ${seed}\nfails: -1\n"
    ),
    "conf/scheduler/slow.yaml": (
        "# A smaller learning rate.\n_target_: parts.off\nper: step\nfactor: 0.01\n"
    ),
}

LITTLE = (
    *commands.HERE, "tracking=none", "model=mlp", "model.hidden=[32]", "data.train_size=100",
    "epochs=2", "optimizer.lr=0.001",
)  # fmt: skip
"""A network that learns next to nothing, unless its gradients are fifty times as large."""

BOOST = ("ablate", *LITTLE, "clip=boost", "plan=greedy", "seed=0,1")

GREEDY = (*BOOST, "scheduler=slow")


def sweep(folder: Path) -> tuple[dict[str, Any], dict[str, sweep_jobs.JobResult]]:
    (found,) = (folder / "outputs" / "sweeps").glob("*")
    return commands.read_json(found / "sweep.json"), {
        e.name: e for e in sweep_jobs.read_results(found)
    }


def mean(folder: Path, variant: str) -> float:
    """Over the two seeds, of val/accuracy after the last epoch."""
    ended, values = sweep(folder)[1], list[float]()
    for seed in (0, 1):
        run = folder / "outputs" / "runs" / str(ended[f"{variant} seed={seed}"].run)
        lines = commands.read_lines(run / "metrics.jsonl")
        points = [line["metrics"] for line in lines if "val/accuracy" in line["metrics"]]
        values.append(points[-1]["val/accuracy"])
    return sum(values) / 2


def test_the_trick_that_helps_is_kept_and_what_adds_nothing_ends_it(tmp_path: Path) -> None:
    commands.project(tmp_path, PROJECT)
    done = commands.in_turn(tmp_path, *GREEDY)
    assert done.status == 0, done.err
    told, ended = sweep(tmp_path)
    alone = ["baseline", "scheduler=slow", "clip=boost"]
    assert told["variants"] == [*alone, *alone, *["scheduler=slow clip=boost"] * 2]
    assert len(told["planned"]) == told["jobs"] == len(ended) == 8
    planted = mean(tmp_path, "clip=boost") - mean(tmp_path, "baseline")
    assert planted > 0.3 > abs(mean(tmp_path, "scheduler=slow") - mean(tmp_path, "baseline"))
    assert told["path"] == [
        {"variant": "baseline", "added": None, "mean": mean(tmp_path, "baseline")},
        {"variant": "clip=boost", "added": "clip=boost", "mean": mean(tmp_path, "clip=boost")},
    ]
    assert told["stopped"] == "nothing more helps"
    path = (
        f"Path  baseline {100 * mean(tmp_path, 'baseline'):.2f} % -> "
        f"+clip=boost {100 * mean(tmp_path, 'clip=boost'):.2f} %; nothing more helps"
    )
    assert path in done.out.splitlines()
    by = "bare means over the seeds of val/accuracy after the last epoch"
    assert f"That goes by {by}: compare says how sure each step is" in done.out
    # the second round stands in the report
    assert (
        f"The greedy plan kept clip=boost and stopped: nothing more helps. It went by {by}, and by "
        "no test; how sure each step is, the changes below say."
    ) in done.out.splitlines()
    (line,) = [x for x in done.out.splitlines() if x.startswith("On top of clip=boost, ")]
    both = mean(tmp_path, "scheduler=slow clip=boost") - mean(tmp_path, "clip=boost")
    assert f"scheduler=slow changed val/accuracy by {100 * both:+.2f} points" in line

    runs = commands.runs(tmp_path)
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    lines = (folder / "jobs.jsonl").read_text().splitlines(keepends=True)
    # killed in the second round: its last job and the end are gone
    (folder / "jobs.jsonl").write_text("".join(lines[:7]))
    (folder / "sweep.json").write_text(
        (folder / "sweep.json").read_text().replace('"status": "FINISHED"', '"status": "KILLED"')
    )
    again = commands.in_turn(tmp_path, *GREEDY)
    assert f"going on with {folder.name}" in again.out and path in again.out.splitlines()
    assert (again.status, commands.runs(tmp_path)) == (0, runs)
    assert sweep(tmp_path)[0]["path"] == told["path"]


@pytest.mark.long
def test_what_lacks_a_seed_is_not_chosen_and_without_a_baseline_it_ends(tmp_path: Path) -> None:
    commands.project(tmp_path, PROJECT)
    done = commands.in_turn(tmp_path, *BOOST, "clip.fails=1")
    assert done.status == 1
    told, ended = sweep(tmp_path)
    # it did help in the run that there is
    boosted, before = (ended[f"{name} seed=0"].accuracy for name in ("clip=boost", "baseline"))
    assert boosted is not None and before is not None and boosted > before + 0.3
    assert [at["variant"] for at in told["path"]] == ["baseline"]
    why = "nothing more helps (not known of clip=boost: clip=boost seed=1 FAILED)"
    assert told["stopped"] == why

    # less than a sample of each class: the runs are refused where the data is made
    done = commands.in_turn(tmp_path, *BOOST, "data.train_size=5", "output_dir=small/outputs")
    assert done.status == 1
    told, ended = sweep(tmp_path / "small")
    assert len(ended) == 4 and {each.status for each in ended.values()} == {"REFUSED"}
    assert (told["path"], told["stopped"]) == (
        [], "the baseline has no mean: baseline seed=0 REFUSED",
    )  # fmt: skip
    assert f"Stopped: {told['stopped']}" in done.out


def test_only_a_single_option_of_a_group_may_climb(tmp_path: Path) -> None:
    done = commands.in_turn(tmp_path, *GREEDY, "augment=flip_crop,mixup")
    assert done.status == 2 and "augment=flip_crop,mixup: plan=greedy " in done.err


def variant(name: str) -> Variant:
    return (Trick("clip", name, (), ()),)


scores = st.dictionaries(
    st.sampled_from("abcde").map(variant), st.floats(0, 1) | st.just("a run is missing"), min_size=1
)


@given(st.floats(0, 1), scores)
def test_the_best_of_those_that_help_is_chosen(
    score: float, among: dict[Variant, float | str]
) -> None:
    chosen, why = greedy.select_best_variant((), score, {(): score, **among})
    known = {v: mean for v, mean in among.items() if not isinstance(mean, str)}
    better = [v for v, mean in known.items() if mean > score]
    if not better:
        assert chosen is None and why.startswith("nothing more helps")
        assert ("not known of" in why) == (len(known) < len(among))
    else:
        assert chosen in better and why == ""
        assert all(known[chosen] >= known[other] for other in better)


@pytest.mark.parametrize("rival", [0.5, 0.4])
def test_what_is_only_as_good_does_not_help(rival: float) -> None:
    assert greedy.select_best_variant((), 0.5, {(): 0.5, variant("a"): rival})[0] is None
