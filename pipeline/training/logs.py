"""DVCLive's logs of a training. It costs a tenth of a second to import, which who trains nothing does not pay."""

from pathlib import Path
from typing import Any

from dvclive import Live
from dvclive.lightning import DVCLiveLogger

from pipeline.files import naming


def logger(folder: Path | None) -> DVCLiveLogger:
    """Lightning's logger that writes into a folder; None of a process that writes nothing."""
    return DVCLiveLogger(experiment=None if folder is None else Logs(str(folder), dvcyaml=None))


class Logs(Live):
    """DVCLive's files alone. With its repository it would run `dvc init` and stage files in any git checkout around."""

    def _init_dvc(self) -> None:
        self._save_dvc_exp = False

    def log_metric(self, name: str, val: float | str, *further: Any, **named: Any) -> None:
        """As DVCLive's; a full disk's error says which folder's."""
        with naming(Path(self.dir)):
            super().log_metric(name, val, *further, **named)

    def sync(self) -> None:
        """As DVCLive's; a full disk's error says which folder's."""
        with naming(Path(self.dir)):
            super().sync()
