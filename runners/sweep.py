"""How a sweep runs: Hydra's compositions and launchers, around the runs that are left to do.

Hydra's own sweeper composes every job before it starts the first, and knows none that has ended.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode, TaskFunction
from joblib.externals.loky.process_executor import TerminatedWorkerError
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runners.display import Display
from runners.mistakes import CONF, UserError, one_line
from runners.progress import Progress, progress_file, since_launch
from runners.records import RecordStore

Job = list[str]
"""The overrides of one run."""


def sweep(command: str, task: TaskFunction, overrides: list[str], config_dir: str | None) -> int:
    """Run every combination of the overrides' choices, write the report, return the exit code.

    Args:
        command: The name of the primary configuration.
        task: What a worker does with a configuration.
        overrides: As on the command line.
        config_dir: A folder of more configurations.

    Raises:
        UserError: If there is no combination, or a choice has a setting that no run can have.
        NothingRecorded: If a run could leave no record.
    """
    version.setbase("1.3")
    hydra = Hydra.create_main_hydra2("attnbench", _search_path(config_dir))
    try:
        jobs = _jobs(hydra, command, overrides)
        flags = [o for o in overrides if o.lstrip("+~").startswith("hydra")]
        with _blaming(jobs[0], jobs):
            config = hydra.compose_config(command, [*flags, *jobs[0]], RunMode.MULTIRUN)
        context = HydraContext(hydra.config_loader, Callbacks(config))
        results = Path(config.run.results)
        store = RecordStore(results / config.run.sweep)
        with progress_file(results) as file:
            progress = Progress(file)
            with Display(progress, len(jobs), store.folder) as display:
                display.say(f"looking for what is left of {len(jobs)} runs")
                store.tidy()
                left = _left(store, config, jobs, progress)
                if left:
                    display.say(f"checking the settings of {len(left)} runs")
                    _check(command, config, context, left)
                    display.say("")
                    told = [[*job, f"run.progress={_quoted(file)}"] for job in left]
                    _launch(config, context, task, told, progress)
    finally:
        GlobalHydra.instance().clear()
    return display.report(command)


def _search_path(config_dir: str | None) -> ConfigSearchPath:
    path = create_config_search_path(str(CONF))
    if config_dir is not None:
        if not os.path.isdir(config_dir):
            raise UserError(f"--config-dir: no folder {config_dir}")
        # As Hydra does: before the package, behind nothing but the schema.
        added = f"file://{os.path.abspath(config_dir)}"
        path.prepend("command-line", added, SearchPathQuery(provider="schema"))
    return path


def _jobs(hydra: Hydra, command: str, overrides: list[str]) -> list[Job]:
    parser = OverridesParser.create(config_loader=hydra.config_loader)
    given = parser.parse_overrides(overrides)
    # What an experiment sweeps over is read first: a setting may be one of those choices' own.
    fixed = [o for o in given if o.is_hydra_override() or _is_choice(hydra, o)]
    experiment = hydra.compose_config(
        command, [str(override.input_line) for override in fixed], RunMode.MULTIRUN
    )
    params = experiment.hydra.sweeper.params or {}
    swept = parser.parse_overrides([f"{key}={value}" for key, value in params.items()])
    own = [override for override in given if not override.is_hydra_override()]
    (jobs,) = BasicSweeper.split_arguments([*swept, *own], max_batch_size=None)
    if not jobs:
        swept = " ".join(str(o.input_line) for o in [*swept, *own] if o.is_sweep_override())
        raise UserError(f"a sweep of no runs: {swept} leaves nothing to choose from")
    return jobs


def _is_choice(hydra: Hydra, override: Override) -> bool:
    """Whether it names one choice of a group."""
    loader, group = hydra.config_loader, override.key_or_group
    is_group = bool(loader.get_group_options(group) or loader.list_groups(group))
    return is_group and not override.is_sweep_override()


def _left(
    store: RecordStore, config: DictConfig, jobs: Sequence[Job], progress: Progress
) -> Sequence[Job]:
    """The jobs that have not ended, as far as that is known without composing them."""
    from runners.ended import Ended  # loads torch

    # Where it is recorded, and whether it is run again all the same, is not asked of each job.
    own = {tuple(override for override in job if override.startswith("run.")) for job in jobs}
    if config.run.force or len(own) > 1:
        return jobs
    ended = Ended(store, config.hydra.job.config_name, config.hydra)
    return [job for job in jobs if not ended.skip(job, progress)]


def _check(command: str, config: DictConfig, context: HydraContext, jobs: Sequence[Job]) -> None:
    """Compose and check so many of the jobs that each choice is in one of them."""
    examples = list(_examples(jobs))
    composed = []
    for job in examples:
        with _blaming(job, jobs):
            composed.append(context.config_loader.load_sweep_config(config, job))
    from runners.settings import check  # loads torch

    for job, whole in zip(examples, composed, strict=True):
        with _blaming(job, jobs):
            kept = [str(key) for key in whole if key != "hydra"]
            check(command, OmegaConf.masked_copy(whole, kept))


@contextmanager
def _blaming(job: Job, jobs: Sequence[Job]) -> Iterator[None]:
    """Name the choices of a job where it cannot be composed, or has a wrong setting."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        shared = set.intersection(*map(set, jobs))
        chosen = " ".join(override for override in job if override not in shared)
        raise UserError(": ".join(filter(None, (chosen, one_line(error))))) from error


def _examples(jobs: Sequence[Job]) -> Iterator[Job]:
    seen: set[str] = set()
    for job in jobs:
        if not seen.issuperset(job):
            seen |= set(job)
            yield job


def _launch(
    config: DictConfig,
    context: HydraContext,
    task: TaskFunction,
    jobs: Sequence[Job],
    progress: Progress,
) -> None:
    """Run the jobs; when a worker process dies, take up what had not ended."""
    launcher = Plugins.instance().instantiate_launcher(context, task, config)
    while True:
        progress.launch()
        try:
            returns = launcher.launch(jobs, initial_job_idx=0)
            break
        except TerminatedWorkerError as death:
            # Each time, a run has died that is not started a third time, so this ends.
            if not since_launch(progress.events()):
                raise UserError(
                    "the workers died before they began a run, perhaps for want of memory"
                ) from death
    for done in returns:
        _ = done.return_value  # raises what the job raised


def _quoted(text: str) -> str:
    """A text as a value on Hydra's command line, whatever it contains."""
    escaped = text.replace("'", "\\'")
    return f"'{escaped}'"
