"""Sweeps that older versions recorded with plan=greedy are still shown by status and compare."""

import json
from pathlib import Path

import commands

TINY = (
    *commands.CPU, "tracking=none", "model=mlp", "model.hidden=[32]", "data.train_size=100",
    "epochs=1", "clip=norm", "scheduler=step",
)  # fmt: skip

KEPT = ["baseline", "clip=norm", "scheduler=step clip=norm"]


def test_recorded_greedy_sweep_is_shown_by_status_and_compare(tmp_path: Path) -> None:
    done = commands.sweep(tmp_path, "ablate", *TINY, "seed=0,1", "plan=factorial", "yes=true")
    assert done.status == 0, done.err
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    record = commands.read_json(sweep / "sweep.json")
    # with two tricks, the variants of the two rounds are those of plan=factorial
    path = [
        {"variant": name, "added": name.split(" ")[0] if n else None, "mean": 0.1 + n / 10}
        for n, name in enumerate(KEPT)
    ]
    by = "bare means over the seeds of val/accuracy after the last epoch"
    record |= {"plan": "greedy", "path": path, "stopped": "every trick is on", "by": by}
    (sweep / "sweep.json").write_text(json.dumps(record))

    shown = commands.run(tmp_path, "status", sweep.name)
    assert shown.status == 0 and "8 of 8 done" in shown.out, shown.err
    compared = commands.run(tmp_path, "compare", sweep.name)
    assert compared.status == 0, compared.err
    # the parts of the sentence that name the recorded plan, its last variant and why it ended
    (line,) = [line for line in compared.out.splitlines() if "greedy" in line]
    assert KEPT[-1] in line and "every trick is on" in line and by in line
    assert any(line.startswith("On top of clip=norm, ") for line in compared.out.splitlines())
