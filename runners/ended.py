"""Which jobs of a sweep have ended, found without composing their settings, which takes long.

Each run notes the overrides of its job with what its identity is made of: a hash of its settings,
and what of them can name code or data. Code and data are looked at anew each time.
"""

import functools
import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from runners.fingerprint import Dependence, dependence, sources
from runners.identity import CACHE, Identity, described
from runners.progress import Progress
from runners.records import Record, RecordStore, UnreadableRecord

NAME = ".jobs.jsonl"


class Ended:
    """The jobs of one command that have ended in one result folder.

    Args:
        store: The records of the folder.
        command: The command.
        hydra: The settings of Hydra, which know where configurations are read from.
    """

    def __init__(self, store: RecordStore, command: str, hydra: Any) -> None:
        self.store = store
        self.path = store.folder / NAME
        places = [s.path for s in hydra.runtime.config_sources if s.schema == "file"]
        self.about = [command, [_digest(place) for place in places]]
        self.noted: dict[str, dict[str, Any]] = {}
        self.found: dict[str, dict[str, str]] = {}
        with suppress(OSError), self.path.open() as file:
            for line in file:
                with suppress(ValueError, KeyError, TypeError):
                    entry = json.loads(line)
                    self.noted[entry["job"]] = entry

    def note(
        self,
        overrides: Sequence[str],
        identity: Identity,
        name: str,
        config: DictConfig,
        settings: Mapping[str, Any],
    ) -> None:
        """Keep what the identity of a job's run is made of, once.

        Args:
            overrides: Of the job.
            identity: Of its run.
            name: Of its run, for a reader.
            config: The configuration that the overrides gave.
            settings: The same, resolved.
        """
        job = self._key(overrides)
        unresolved: Any = OmegaConf.to_container(config, resolve=False)
        # Of the environment or the time: the overrides do not tell what the settings will be.
        if job in self.noted or re.search(r"\$\{[\w.]+:", json.dumps(unresolved, default=str)):
            return
        on = asdict(dependence(settings))
        entry = {"job": job, "settings_id": identity.settings_id, "name": name, "on": on}
        self.noted[job] = entry
        with suppress(OSError):  # it saves time, no more
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            with os.fdopen(handle, "wb") as file:
                file.write(json.dumps(entry).encode() + b"\n")

    def skip(self, overrides: Sequence[str], progress: Progress) -> bool:
        """Whether a job is known to have ended for good, which is then told of."""
        entry = self.noted.get(self._key(overrides))
        if entry is None:
            return False
        found = self._sources(Dependence(entry["on"]["texts"], tuple(entry["on"]["outputs"])))
        identity = Identity.of(entry["settings_id"], found)
        with self.store.sole(identity.run_id, wait=False) as is_free:
            return is_free and reused(self.store, identity, entry["name"], progress) is not None

    def _key(self, overrides: Sequence[str]) -> str:
        telling = [o for o in overrides if not re.match(r"[+~]*(run|hydra)[./=]", o)]
        return hashlib.sha256(json.dumps([self.about, telling]).encode()).hexdigest()[:24]

    def _sources(self, on: Dependence) -> Mapping[str, str]:
        key = json.dumps(asdict(on), sort_keys=True)
        if key not in self.found:
            self.found[key] = sources(on, self.store.folder.parent / CACHE)
        return self.found[key]


@functools.cache
def jobs(folder: Path, command: str) -> Ended:
    """Those of a result folder, for a worker of a sweep."""
    return Ended(RecordStore(folder), command, HydraConfig.get())


def reused(store: RecordStore, identity: Identity, name: str, progress: Progress) -> Record | None:
    """The record of an earlier run that ended for good, which is then told of."""
    try:
        record = store.read(identity.run_id)
    except UnreadableRecord as error:
        # Run again.
        print(f"attnbench: {error}; running it again", flush=True)
        store.path(identity.run_id).rename(store.path(identity.run_id).with_suffix(".unreadable"))
        return None
    if record is None or not record.status.is_final:
        return None
    note = described(record, identity)
    other = store.other(identity.run_id)
    if other is not None and other.started_at > record.started_at:
        note += "; the report shows a newer one of other code or data"
    progress.tell(identity.run_id, name, "skipped", record.status, note=note)
    if progress.path is None:
        line = f"attnbench: {name}: shows the record {note}; run.force=true runs it again"
        print(line, file=sys.stderr, flush=True)
    return record


@functools.cache
def _digest(folder: str) -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*.yaml")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
