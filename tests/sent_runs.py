"""Runs that are recorded and sent to MLflow."""

from __future__ import annotations

from pathlib import Path

from recipe.components.tracking import Tracking
from recipe.mlflow_sync.upload_queue import UploadQueue
from recipe.runner.recorder import Recorder, Status


class SentRecorder(Recorder):
    """A recorder whose `close` waits for the upload, as the command that trains a run does."""

    upload_failure: str | None = None

    def __init__(
        self, outputs: Path, name: str, tracking: Tracking, *, sweep_dir: Path | None = None
    ) -> None:
        super().__init__(outputs, name, sweep_dir=sweep_dir)
        self._request_upload(tracking)

    @classmethod
    def resume(cls, run_dir: Path, tracking: Tracking) -> SentRecorder:
        recorder = cls.reopen(run_dir)
        assert isinstance(recorder, SentRecorder)
        recorder._request_upload(tracking)
        return recorder

    def _request_upload(self, tracking: Tracking) -> None:
        self.uploads = UploadQueue(self.run_dir.parent.parent, tracking)
        self.uploads.request(self.run_dir)

    @property
    def mlflow_run_id(self) -> str | None:
        return self.uploads.get_mlflow_run_id(self.run_dir)

    def close(self, status: Status, error: str = "") -> None:
        super().close(status, error)
        self.upload_failure = self.uploads.wait([self.run_dir]).get(self.run_dir)
        self.uploads.close()
