"""Runs that are stopped and resumed in this process, without a record."""

from __future__ import annotations

import io
import itertools
from typing import Any

import torch
from nonfinite_model import marked

from recipe.audit.auditor import Audit
from recipe.checkpoint.state import RunState, capture_state, restore_state, to_plain_data
from recipe.config.spec import RunSpec
from recipe.training.build import build
from recipe.training.loop import MetricsEvent, train
from recipe.training.run import Run


def assert_resumes_after_a_step(spec: RunSpec) -> None:
    """A run that is resumed after its first step ends with the weights of one that never
    stopped."""
    whole, half, resumed = (build(spec) for _ in range(3))
    list(train(whole))
    next(train(half))
    restore_state(resumed, capture_state(half))
    list(train(resumed))
    for ours, theirs in zip(
        resumed.model.state_dict().values(), whole.model.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)


def numbers(points: list[MetricsEvent]) -> list[tuple[int, dict[str, str]]]:
    """What is reproducible of them, to the last digit: all but times and memory."""
    kept = [
        {k: repr(v) for k, v in p.metrics.items() if not k.startswith(("time/", "memory/"))}
        for p in points
    ]
    return [(point.step, metrics) for point, metrics in zip(points, kept, strict=True)]


def everything(run: Run, audit: Audit) -> RunState:
    """All of a run's state that counts at its end, tensors as lists."""
    state = {**capture_state(run), "audit": audit.state_dict()}
    del state["position"]["seconds"], state["streams"]
    listed: RunState = as_lists(state)
    return listed


def as_lists(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), repr(value.tolist()))
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    return [as_lists(v) for v in value] if isinstance(value, list | tuple) else repr(value)


def written_and_read(state: RunState) -> RunState:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    read: RunState = torch.load(buffer, weights_only=True)
    return read


def made(spec: RunSpec) -> Run:
    run = build(spec)
    return marked(run, 13) if "gate" in spec.model else run


def stopped(spec: RunSpec, after: int) -> tuple[list[MetricsEvent], RunState]:
    """The first Points of a run, and its state after them as it is read from a file."""
    run = made(spec)
    with Audit(spec, run) as audit:
        points = []
        for point in itertools.islice(train(run), after):
            audit.check(point)
            points.append(point)
        state = {"run": capture_state(run), "audit": to_plain_data(audit.state_dict(), "audit")}
    return points, written_and_read(state)


def ended(spec: RunSpec, state: RunState | None) -> tuple[list[MetricsEvent], RunState]:
    run = made(spec)
    with Audit(spec, run) as audit:
        if state is not None:
            restore_state(run, state["run"])
            audit.load_state_dict(state["audit"])
        torch.rand(7)  # whatever was drawn meanwhile
        points = []
        for point in train(run):
            verdicts = audit.check(point)
            assert all(verdict.has_passed for verdict in verdicts), verdicts
            points.append(point)
        return points, everything(run, audit)
