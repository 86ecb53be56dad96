"""Runs that are audited at every step."""

from __future__ import annotations

from recipe.audit.auditor import Audit, AuditResult
from recipe.config.spec import RunSpec
from recipe.training import build
from recipe.training.loop import train


def trained(spec: RunSpec) -> dict[str, AuditResult]:
    """The verdicts at the end of a run."""
    run = build.build(spec)
    with Audit(spec, run) as audit:
        verdicts = [audit.check(point) for point in train(run)][-1]
    return {verdict.group: verdict for verdict in verdicts}
