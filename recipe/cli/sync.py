"""`recipe sync`: sends what MLflow lacks of the recorded runs and sweeps."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import Timeout
from rich.console import Console

from recipe import output
from recipe.components.tracking import Tracking
from recipe.components.tracking.local import local
from recipe.config import compose, credentials
from recipe.config.instantiate import bind_component, instantiate
from recipe.config.recorded_spec import override_destinations
from recipe.config.spec import RunSpec
from recipe.config.verb_arguments import parse_key_values
from recipe.errors import Problems, RecipeError, SpecError
from recipe.formatting import escape_unprintable, pluralize
from recipe.mlflow_sync import client, parent_run
from recipe.mlflow_sync.client import RunDeletedError
from recipe.mlflow_sync.upload import RunUploader
from recipe.runner.console import print_caution
from recipe.store import damaged_files, run_dirs, stale_records, sweep_record
from recipe.store.journal import DamagedJournalError
from recipe.store.upload_state import UploadState

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

MAX_ATTEMPTS = 3
"""Calls, a second apart, that must fail before a server is given up."""

UPLOADER_TIMEOUT = 30.0
"""Seconds to wait for an uploader that still sends a run, such as after its process was killed."""


def sync(arguments: Sequence[str], console: Console) -> int:
    """Returns exit status 1 if anything is still unsent. Raises SpecError for wrong arguments."""
    known = {"output_dir": "", "tracking.uri": "", "trust": ""}
    values = parse_key_values("sync", arguments, known)
    outputs = run_dirs.resolve_output_dir(values["output_dir"])
    runs = list_runs(outputs, console)
    if not runs:
        return 0
    stale_records.close_stale_records(outputs)
    uploader = RecordUploader(outputs, values["tracking.uri"], values["trust"])
    ended = [run for run in runs if not run_dirs.is_running(run)]
    damaged, unclear = damaged_files.find_damaged_runs(ended), 0
    for run in ended:
        if result := uploader.upload_run(run):
            console.print(f"{escape_unprintable(run.name)}  {result}", soft_wrap=True)
        elif run in damaged:
            unclear += 1
    if damaged:
        print_caution(console, damaged_files.format_damage(damaged))
    uploader.upload_sweeps()
    if uploader.uri and not uploader.is_uri_used:
        raise SpecError(
            f"tracking.uri={uploader.uri}: none of these runs goes to a server; leave it out"
        )
    for reason in dict.fromkeys(uploader.failure_reasons.values()):
        console.print(f"recipe: {reason}", style="red", soft_wrap=True)
    console.print(uploader.format_summary(len(ended) - unclear), soft_wrap=True)
    return 1 if uploader.num_unsent else 0


def list_runs(outputs: Path, console: Console) -> list[Path]:
    """The folders of all recorded runs; prints a message if there are none."""
    folder = run_dirs.get_runs_dir(outputs)
    found = stale_records.list_record_dirs(folder, "run.json")
    if not found:
        console.print(f"There are no runs in {escape_unprintable(folder)}", soft_wrap=True)
    return found


class RecordUploader:
    """Sends runs and sweeps, each to the server in its spec."""

    def __init__(self, outputs: Path, uri: str = "", trust: str = "") -> None:
        """Raises SpecError if `uri` contains a password."""
        problems = Problems()
        with problems.collect("tracking.uri"):
            credentials.check_no_credentials(uri)
        problems.raise_if_any()
        self.uri = uri
        self.is_uri_used = False
        """Whether the record of any run is sent to it."""
        self.num_sent, self.num_unsent = 0, 0
        """Runs and sweeps that had something unsent."""
        self.num_deleted = 0
        """Runs that were deleted in MLflow."""
        self.failure_reasons: dict[str, str] = {}
        """By server or run: why it was given up."""
        self._outputs = outputs
        self._trusted, self._project = (
            compose.get_trusted_packages(trust),
            compose.compose_project(),
        )

    def upload_run(self, run_dir: Path) -> str | None:
        """Sends a run. Returns the result as text, or None if nothing was left to send."""
        try:
            sent = UploadState.read(run_dir)
            if sent is not None and (
                sent.uri is None or not (self.uri or sent.describe_unsent(run_dir))
            ):
                if not self._is_missing_in_mlflow(run_dir, sent):
                    return None
                sent.reset()
                sent.write(run_dir)
            tracking = self._get_tracking(run_dir, sent)
            uploader = RunUploader(run_dir, tracking)
            if tracking.uri is None or not (left := uploader.state.describe_unsent(run_dir)):
                return None
            output.set_current_task(f"sending run {run_dir.name} to MLflow")
            with uploader.acquire_lock(UPLOADER_TIMEOUT):
                return self._upload_pending(
                    uploader, uploader.state.describe_unsent(run_dir) or left
                )
        except Timeout:
            reason = f"{escape_unprintable(run_dir.name)}: another process is sending it"
        except (RecipeError, DamagedJournalError) as error:
            reason = str(error)
        except OSError as error:
            reason = f"{escape_unprintable(run_dir)} can't be written: {error.strerror}"
        self.failure_reasons[run_dir.name] = reason
        self.num_unsent += 1
        return "not sent"

    def _is_missing_in_mlflow(self, run: Path, sent: UploadState) -> bool:
        """Whether the outputs' own database, which had the complete run, was replaced."""
        tracking = self._get_local_tracking()
        if sent.uri != tracking.uri or sent.mlflow_run_id is None:
            return False
        if not (self._outputs / "mlflow.db").is_file():
            return True
        try:
            return not client.has_run(self._local_client, sent.mlflow_run_id)
        except Exception as error:  # whatever MLflow raises
            self.failure_reasons[str(tracking.uri)] = client.describe_error(error)
            return False

    @functools.cached_property
    def _local_client(self) -> MlflowClient:
        return client.connect(self._get_local_tracking(), self._outputs)[0]

    def _get_local_tracking(self) -> Tracking:
        experiment = self._project.tracking.get("experiment", "recipe")
        return local(self._outputs, experiment=experiment)

    def upload_sweeps(self) -> None:
        """Sends the ends of sweeps."""
        sweeps = stale_records.list_record_dirs(self._outputs / "sweeps", "sweep.json")
        unsent = {sweep.name: sweep for sweep in sweeps if sweep_record.has_unsent_end(sweep)}
        if not unsent:
            return
        for run in stale_records.list_record_dirs(run_dirs.get_runs_dir(self._outputs), "run.json"):
            try:
                if sweep := unsent.pop(run_dirs.read_info_file(run, "run").sweep or "", None):
                    self._upload_sweep(sweep, self._get_tracking(run, UploadState.read(run)))
            except RecipeError as error:
                self.failure_reasons[run.name] = str(error)
                self.num_unsent += 1

    def _upload_sweep(self, sweep: Path, tracking: Tracking) -> None:
        uri = str(tracking.uri)
        failure = self.failure_reasons.get(uri) or parent_run.send_sweep_end(
            tracking, self._outputs, sweep
        )
        if failure:
            self.failure_reasons[uri] = failure
            self.num_unsent += 1
        else:
            self.num_sent += 1

    def format_summary(self, number: int) -> str:
        done = f"{self.num_sent} of {number} sent" if self.num_sent else "nothing was sent"
        if self.num_unsent:
            sync = run_dirs.format_command("sync", self._outputs)
            return f"{done}, {self.num_unsent} left; {sync} sends the rest"
        if self.num_deleted:
            return f"{done}, {pluralize(self.num_deleted, 'run')} deleted in MLflow"
        if self.num_sent or not number:
            return done
        return f"MLflow has all of {pluralize(number, 'run')} that ended"

    def _get_tracking(self, run: Path, sent: UploadState | None) -> Tracking:
        """Returns where a run's record goes. Raises SpecError if that needs the user's consent."""
        if not (run / "spec.yaml").is_file():  # killed before it was written
            return self._get_default_tracking(sent)
        spec = RunSpec.from_file(run / "spec.yaml", self._trusted)
        if problems := instantiate(spec, ("tracking",)).problems:
            raise SpecError(problems["tracking"])
        uri = self.uri if "uri" in spec.tracking else ""
        self.is_uri_used |= bool(uri)
        spec = override_destinations(spec, str(self._outputs), uri, self._project)
        tracking: Tracking = bind_component(spec, "tracking")(self._outputs)
        return tracking

    def _get_default_tracking(self, sent: UploadState | None) -> Tracking:
        default = self._get_local_tracking()
        if sent is None or sent.uri == default.uri:
            return default
        uri = self.uri or sent.uri
        self.is_uri_used |= bool(self.uri)
        if (
            not self.uri
            and not credentials.is_local_uri(uri)
            and uri != compose.get_tracking_uri(self._project)
        ):
            raise SpecError(
                f"tracking.uri: {uri!r} of this run is another machine's; if the record may go "
                f"there, add tracking.uri={uri}"
            )
        return Tracking(uri=uri, experiment=default.experiment)

    def _upload_pending(self, uploader: RunUploader, left: str) -> str:
        uri, before = str(uploader.state.uri), len(uploader.state.problems)
        if uri in self.failure_reasons:
            self.num_unsent += 1
            return f"not sent: {left}"
        try:
            while _upload_chunk(uploader):
                pass
        except (SpecError, DamagedJournalError):  # of this run alone
            raise
        except RunDeletedError as error:
            self.num_deleted += 1
            return f"not sent, and never will be: {error}"
        except Exception as error:  # whatever MLflow raises
            self.failure_reasons[uri] = client.describe_error(error)
            self.num_unsent += 1
            return f"not sent: {uploader.state.describe_unsent(uploader.run_dir)}"
        self.num_sent += 1
        rejected = [f"MLflow rejected {problem}" for problem in uploader.state.problems[before:]]
        return "; ".join([f"sent {left}", *rejected])


def _upload_chunk(uploader: RunUploader, attempts: int = MAX_ATTEMPTS) -> bool:
    try:
        return uploader.send_chunk()
    except (RunDeletedError, SpecError, DamagedJournalError):
        raise
    except Exception as error:  # whatever MLflow raises
        if attempts == 1:
            raise
        client.extend_timeout(error)
        time.sleep(1)
        return _upload_chunk(uploader, attempts - 1)
