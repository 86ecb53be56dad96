"""`recipe sync`: sends what MLflow lacks of the recorded runs and sweeps, as often as one likes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import Timeout
from rich.console import Console

from recipe import output
from recipe.components.tracking import Tracking
from recipe.components.tracking.local import local
from recipe.config import compose, credentials, restrictions
from recipe.config.instantiate import part, static_problems
from recipe.config.key_values import key_values
from recipe.config.spec import RunSpec
from recipe.errors import Problems, RecipeError, SpecError
from recipe.formatting import counted, printable
from recipe.mlflow_sync import client, parent_run
from recipe.mlflow_sync.client import Gone
from recipe.mlflow_sync.upload import Sending
from recipe.store import damage, run_dirs, stale_records, sweep_record
from recipe.store.journal import Damaged
from recipe.store.upload_state import Sent

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

TRIES = 3
"""How often a call is tried, a second apart, before its server is given up."""


def sync(arguments: Sequence[str], console: Console) -> int:
    """Exit status 1 if anything is still unsent. Raises SpecError for wrong arguments."""
    known = {"output_dir": "", "tracking.uri": "", "trust": ""}
    values = key_values("sync", arguments, known)
    outputs = run_dirs.outputs(values["output_dir"])
    there = stale_records.recorded(run_dirs.folder(outputs), "run.json")
    if not there:
        console.print(f"There are no runs in {printable(run_dirs.folder(outputs))}", soft_wrap=True)
        return 0
    stale_records.close_all(outputs)
    sending = Sync(outputs, values["tracking.uri"], values["trust"])
    ended = [run for run in there if not run_dirs.alive(run)]
    damaged, unclear = damage.find(ended), 0
    for run in ended:
        if said := sending.run(run):
            console.print(f"{printable(run.name)}  {said}", soft_wrap=True)
        elif run in damaged:
            unclear += 1
    if damaged:
        console.print(f"Caution {damage.sentence(damaged)}", style="yellow", soft_wrap=True)
    sending.sweeps()
    if sending.uri and not sending.taken:
        raise SpecError(
            f"tracking.uri={sending.uri}: none of these runs goes to a server; leave it out"
        )
    for reason in dict.fromkeys(sending.reasons.values()):
        console.print(f"recipe: {reason}", style="red", soft_wrap=True)
    console.print(sending.summary(len(ended) - unclear), soft_wrap=True)
    return 1 if sending.unsent else 0


class Sync:
    """Sends runs and sweeps, each to the server that its own spec names."""

    def __init__(self, outputs: Path, uri: str = "", trust: str = "") -> None:
        """Raises SpecError where `uri` has a password in it."""
        problems = Problems()
        with problems.collect("tracking.uri"):
            credentials.without(uri)
        problems.raise_any()
        self.uri = uri
        self.taken = False
        """Whether `uri` was any run's server."""
        self.sent, self.unsent = 0, 0
        """Runs and sweeps that had something left."""
        self.gone = 0
        """Runs that were deleted in MLflow."""
        self.reasons: dict[str, str] = {}
        """Why a server, or a run, was given up."""
        self._outputs = outputs
        self._here: MlflowClient | None = None
        self._trusted, self._project = compose.trusted(trust), compose.project()

    def run(self, run: Path) -> str | None:
        """Sends a run; what became of it, in words, or None if nothing was left to send."""
        try:
            sent = Sent.read(run)
            if sent is not None and (sent.uri is None or not (self.uri or sent.left(run))):
                if not self._is_lost(run, sent):
                    return None
                sent.forget()
                sent.write(run)
            tracking = self._tracking(run, sent)
            sending = Sending(run, tracking)
            if tracking.uri is None or not (left := sending.sent.left(run)):
                return None
            output.task(f"sending run {run.name} to MLflow")
            with sending.sole():
                return self._send(sending, left)
        except Timeout:
            self.reasons[run.name] = f"{printable(run.name)}: another process is sending it"
            return self._count(False, "not sent")
        except (RecipeError, Damaged) as error:
            self.reasons[run.name] = str(error)
            return self._count(False, "not sent")
        except OSError as error:
            self.reasons[run.name] = f"{printable(run)} can't be written: {error.strerror}"
            return self._count(False, "not sent")

    def _is_lost(self, run: Path, sent: Sent) -> bool:
        """Whether the database of these outputs, which had all of the run, is a new one or gone."""
        tracking = self._local()
        if sent.uri != tracking.uri or sent.mlflow_run_id is None:
            return False
        if not (self._outputs / "mlflow.db").is_file():
            return True
        try:
            if self._here is None:
                self._here, _ = client.connect(tracking, self._outputs)
            return not client.knows(self._here, sent.mlflow_run_id)
        except Exception as error:  # whatever MLflow raises
            self.reasons[str(tracking.uri)] = client.reason(error)
            return False

    def _local(self) -> Tracking:
        experiment = self._project.tracking.get("experiment", "recipe")
        return local(self._outputs, experiment=experiment)

    def sweeps(self) -> None:
        """Tells MLflow of the sweeps that ended."""
        folder = self._outputs / "sweeps"
        untold = {
            s.name: s
            for s in stale_records.recorded(folder, "sweep.json")
            if sweep_record.is_untold(s)
        }
        for run in (
            stale_records.recorded(run_dirs.folder(self._outputs), "run.json") if untold else []
        ):
            try:
                if sweep := untold.pop(run_dirs.read(run, "run").sweep or "", None):
                    self._tell(sweep, self._tracking(run, Sent.read(run)))
            except RecipeError as error:
                self.reasons[run.name] = str(error)
                self._count(False)

    def _tell(self, sweep: Path, tracking: Tracking) -> None:
        uri = str(tracking.uri)
        failure = self.reasons.get(uri) or parent_run.tell(tracking, self._outputs, sweep)
        if failure:
            self.reasons[uri] = failure
        self._count(not failure)

    def summary(self, number: int) -> str:
        done = f"{self.sent} of {number} sent" if self.sent else "nothing was sent"
        if self.unsent:
            return f"{done}, {self.unsent} left; {run_dirs.command('sync', self._outputs)} goes on"
        if self.gone:
            return f"{done}, {counted(self.gone, 'run')} deleted in MLflow"
        if self.sent or not number:
            return done
        return f"MLflow has all of {counted(number, 'run')} that ended"

    def _tracking(self, run: Path, sent: Sent | None) -> Tracking:
        """Where a run's record goes. Raises SpecError where only the reader may say so."""
        if not (run / "spec.yaml").is_file():  # it was killed before it wrote one
            return self._early(sent)
        spec = RunSpec.read(run / "spec.yaml", self._trusted)
        if wrong := static_problems(spec, ("tracking",)):
            raise SpecError(wrong["tracking"])
        uri = self.uri if "uri" in spec.tracking else ""
        self.taken |= bool(uri)
        spec = restrictions.replayed(spec, str(self._outputs), uri, self._project)
        tracking: Tracking = part(spec, "tracking")(self._outputs)
        return tracking

    def _early(self, sent: Sent | None) -> Tracking:
        here = self._local()
        if sent is None or sent.uri == here.uri:
            return here
        uri = self.uri or sent.uri
        self.taken |= bool(self.uri)
        if (
            not self.uri
            and not restrictions.is_here(uri)
            and uri != restrictions.server(self._project)
        ):
            raise SpecError(
                f"tracking.uri: {uri!r} of this run is another machine's; if the record may go "
                f"there, say tracking.uri={uri}"
            )
        return Tracking(uri=uri, experiment=here.experiment)

    def _send(self, sending: Sending, left: str) -> str:
        uri, before = str(sending.sent.uri), len(sending.sent.problems)
        if uri in self.reasons:
            return self._count(False, f"not sent: {left}")
        try:
            while _piece(sending):
                pass
        except (SpecError, Damaged):  # of this run alone
            raise
        except Gone as error:
            self.gone += 1
            return f"not sent, and never will be: {error}"
        except Exception as error:  # whatever MLflow raises
            self.reasons[uri] = client.reason(error)
            return self._count(False, f"not sent: {sending.sent.left(sending.run)}")
        refused = [f"MLflow refused {problem}" for problem in sending.sent.problems[before:]]
        return self._count(True, "; ".join([f"sent {left}", *refused]))

    def _count(self, sent: bool, said: str = "") -> str:
        self.sent += sent
        self.unsent += not sent
        return said


def _piece(sending: Sending) -> bool:
    for _ in range(TRIES - 1):
        try:
            return sending.piece()
        except (Gone, SpecError, Damaged):
            raise
        except Exception as error:  # whatever MLflow raises
            client.give_more_time(error)
            time.sleep(1)
    return sending.piece()
