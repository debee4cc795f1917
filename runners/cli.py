"""The command line: `attnbench COMMAND [overrides]`. Nothing heavy is imported before it is needed.

A user's mistake ends in one line that names the thing, the value and what was expected.
"""

import difflib
import importlib
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from runners.stopping import Stopped, stoppable

if TYPE_CHECKING:
    from omegaconf import DictConfig

CONF = Path(__file__).resolve().parents[1] / "conf"

HELP = """\
attnbench: a comprehensive attention benchmark

  attnbench list                    what can be combined: mechanisms x patterns, tasks, experiments
  attnbench verify OVERRIDES        prove or refute the claims of a mechanism
  attnbench train OVERRIDES         train one task with one mechanism in one pattern, and evaluate
  attnbench speed OVERRIDES         time, peak memory and FLOPs over sequence lengths
  attnbench report FOLDER ...       tables, indices and plots of result folders [out=FOLDER]

Overrides are Hydra's: attention=performer pattern=causal_self seed=0 attention.num_features=64.
-m sweeps over every combination, side by side on all cores, and skips what is recorded already:

  attnbench train -m task=mqar/tiny pattern=causal_self attention=softmax,linear_elu seed=0,1
  attnbench verify attention._target_=my_module.MyAttention
  attnbench report results/train

attnbench COMMAND --cfg job shows the settings; docs/ tells the rest.
"""

COMMANDS = ("list", "verify", "train", "speed", "report")
RUNS = ("verify", "train", "speed")
GROUPS = ("attention", "task", "pattern", "experiment")


class UserError(Exception):
    """A mistake on the command line, told in one line."""


def main() -> None:
    """Entry point of the console command."""
    arguments = sys.argv[1:]
    status = 0
    try:
        with stoppable():
            if _wants_help(arguments):
                print(HELP, end="")
            else:
                status = _dispatch(arguments[0], arguments[1:])
            sys.stdout.flush()
    except Stopped as stop:
        how = _how_to_go_on(arguments) if arguments[0] in RUNS else ""
        print(f"attnbench: {stop}{how}", file=sys.stderr)
        status = stop.exit_code
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if os.environ.get("ATTNBENCH_DEBUG"):
            raise
        if not _is_mistake(error):
            raise
        print(f"attnbench: error: {_one_line(error)}", file=sys.stderr)
        status = 2
    sys.exit(status)


def _how_to_go_on(arguments: list[str]) -> str:
    unless = ", without run.force=true," if "run.force=true" in arguments else ""
    return (
        f"; the same command{unless} goes on from here: what is recorded is skipped, and training "
        "resumes at its last checkpoint"
    )


def _wants_help(arguments: list[str]) -> bool:
    """Whether to print this page; the commands that take overrides have Hydra's --help too."""
    asked = {"-h", "--help"}
    own = arguments[:1] in ([], ["help"]) or arguments[0] in asked
    return own or (arguments[0] in ("list", "report") and not asked.isdisjoint(arguments))


def _dispatch(command: str, arguments: list[str]) -> int:
    if command not in COMMANDS:
        raise UserError(_unknown("command", command, COMMANDS))
    if command == "list":
        return importlib.import_module("runners.list").main()
    if command == "report":
        return importlib.import_module("runners.report.report").main(arguments)
    return _run(command, _prepared(arguments))


def _run(command: str, arguments: list[str]) -> int:
    """Hand over to Hydra, for one run or a sweep."""
    import hydra

    from runners.run import execute

    body = importlib.import_module(f"runners.{command}").measure
    is_sweep = "-m" in arguments or "--multirun" in arguments
    records, errors = [], []

    def task(config: "DictConfig") -> None:
        try:
            records.append(execute(command, body, config))
        except Exception as error:
            if is_sweep:  # nothing can be recorded: end the sweep
                raise
            errors.append(error)  # past Hydra, which would print about it first

    # The bars of the data library would run through a sweep's display.
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    # Hydra would print its own errors and exit; with this it raises them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.path.insert(0, os.getcwd())  # an attention of the user's own, by import path
    start = hydra.main(version_base="1.3", config_path=str(CONF), config_name=command)(task)
    if is_sweep:
        return _sweep(start, command, arguments)
    sys.argv = [f"attnbench {command}", *arguments]
    start()
    if errors:
        raise errors[0]
    return importlib.import_module("runners.summary").show(records)


def _sweep(start: "Callable[[], None]", command: str, arguments: list[str]) -> int:
    """Run a sweep; when a worker process dies, take up what had not ended."""
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    from runners.progress import Progress, progress_file, since_launch
    from runners.sweep import Display

    # In the results folder, which every machine of a cluster sees.
    given = [a.partition("=")[2] for a in arguments if a.startswith("run.results=")]
    with progress_file(Path(given[-1] if given else "results")) as file:
        sys.argv = [f"attnbench {command}", *arguments, f"run.progress={file}"]
        progress, died_early = Progress(file), False
        while not died_early:
            progress.launch()
            try:
                start()
                break
            except TerminatedWorkerError:
                # Each time, a run has died that is not started a third time, so this ends.
                died_early = not since_launch(progress.events())
            except Stopped:
                if Display.current:  # gives the terminal back
                    Display.current.close()
                raise
        status = Display.current.finish(command) if Display.current else 0
    if died_early:
        raise UserError("the workers died before they began a run, perhaps for want of memory")
    return status


def _prepared(arguments: list[str]) -> list[str]:
    """Check the names, and let a class of the user's own stand without the default's settings."""
    for argument in arguments:
        group, separator, value = argument.lstrip("+").partition("=")
        if separator and group in GROUPS:
            _check_choices(group, value, arguments)
    own = any(argument.startswith("attention._target_=") for argument in arguments)
    chosen = any(argument.startswith("attention=") for argument in arguments)
    if own and not chosen:
        arguments = [*arguments, "attention=custom"]
    # Hydra wants its flags before the overrides; a user may write them in any order.
    return sorted(arguments, key=lambda a: "=" in a and not a.startswith("-"))


def _check_choices(group: str, value: str, arguments: list[str]) -> None:
    """Hydra's own message for an unknown choice is long, and comes only when a job starts."""
    folders = [CONF / group]
    for flag, folder in itertools.pairwise(arguments):
        if flag in ("--config-dir", "-cd"):
            folders.append(Path(folder) / group)
    known = sorted(
        path.relative_to(folder).with_suffix("").as_posix()
        for folder in folders
        for path in folder.rglob("*.yaml")
    )
    for choice in value.split(","):
        if choice and choice not in known and "(" not in value:
            raise UserError(_unknown(group, choice, known))


def _unknown(kind: str, name: str, known: "list[str] | tuple[str, ...]") -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f", did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}{hint} (known: {', '.join(known)})"


def _is_mistake(error: Exception) -> bool:
    names = {cls.__module__.split(".")[0] for cls in type(error).__mro__}
    return isinstance(error, UserError | OSError | ValueError) or bool(
        names & {"hydra", "omegaconf"}
    )


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines) or type(error).__name__


if __name__ == "__main__":
    main()
