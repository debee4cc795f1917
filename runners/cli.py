"""The command line: `attnbench COMMAND [overrides]`. Nothing heavy is imported before it is needed.

A user's mistake ends in one line that names the thing, the value and what was expected.
"""

import argparse
import contextlib
import importlib
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from runners.mistakes import CONF, NothingRecorded, UserError, is_mistake, one_line, unknown
from runners.stopping import Stopped, stoppable

if TYPE_CHECKING:
    from omegaconf import DictConfig

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
OWN = ("attentions", "conf", "runners", "tasks")


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
        if not is_mistake(error):
            raise
        print(f"attnbench: error: {one_line(error)}", file=sys.stderr)
        status = 2
    except NothingRecorded as reason:
        print(f"attnbench: error: {reason}; the sweep has ended", file=sys.stderr)
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
        raise UserError(unknown("command", command, COMMANDS))
    if command == "list":
        return importlib.import_module("runners.list").main()
    if command == "report":
        return importlib.import_module("runners.report.report").main(arguments)
    return _run(command, arguments)


def _run(command: str, arguments: list[str]) -> int:
    """Hand over to Hydra, for one run or a sweep."""
    import hydra

    records, errors = [], []

    def task(config: "DictConfig") -> None:
        # In a sweep this runs in workers: what starts it shows something before torch is loaded.
        from runners.run import Run, execute
        from runners.settings import check

        body = importlib.import_module(f"runners.{command}").measure

        def measure(run: Run) -> None:
            check(command, run.config)
            body(run)

        in_sweep = config.run.progress is not None
        try:
            if not in_sweep:  # what cannot run leaves no record
                check(command, config)
            records.append(execute(command, measure, config))
        except Exception as error:
            if in_sweep:
                raise NothingRecorded(one_line(error)) from error
            errors.append(error)  # past Hydra, which would print about it first

    # The bars of the data library would run through a sweep's display.
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    # Hydra would print its own errors and exit; with this it raises them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    _look_here_last()
    parsed, arguments = _prepared(command, arguments)
    sys.argv = [f"attnbench {command}", *arguments]
    if parsed.multirun and not (parsed.help or parsed.hydra_help or parsed.cfg or parsed.info):
        from runners.started import num_started
        from runners.sweep import sweep

        if num_started() > 1:
            raise UserError(
                "a sweep starts the ranks of its runs itself: call it without torchrun or srun, "
                "with trainer.devices=N"
            )
        return sweep(parsed.config_name or command, task, parsed.overrides, parsed.config_dir)
    hydra.main(version_base="1.3", config_path=str(CONF), config_name=command)(task)()
    if errors:
        raise errors[0]
    return importlib.import_module("runners.summary").show(records)


def _look_here_last() -> None:
    """Find an attention of the user's own by import path, and let it hide nothing.

    A `tasks.py` or `html.py` of the user's is then none of ours, nor of Python's, here or in the
    workers of a sweep, where Python itself would put the current folder first.
    """
    here, root = os.getcwd(), str(CONF.parent)
    if here != root:
        sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]
    sys.path += [folder for folder in dict.fromkeys((root, here)) if folder not in sys.path]
    os.environ["PYTHONSAFEPATH"] = "1"


def _prepared(command: str, arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse what Hydra would, and put flags before overrides, as Hydra wants them.

    A class of the user's own stands without the settings of the default.
    """
    from hydra._internal.utils import get_args_parser

    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            parsed = get_args_parser().parse_intermixed_args(arguments)
    except SystemExit as end:
        if not end.code:  # --version
            raise
        _, _, why = told.getvalue().strip().splitlines()[-1].partition("error: ")
        raise UserError(f"{why} (attnbench {command} --help lists the flags)") from None
    flags = list(arguments)
    for override in parsed.overrides:
        flags.remove(override)
    given = {o.lstrip("+").partition("=")[0]: o.partition("=")[2] for o in parsed.overrides}
    if "attention._target_" in given:
        for target in given["attention._target_"].split(","):
            _check_visible(target)
        if "attention" not in given:
            parsed.overrides.append("attention=custom")
    return parsed, [*flags, *parsed.overrides]


def _check_visible(target: str) -> None:
    """Refuse a class in the current folder whose module is hidden by another of the same name."""
    top, *inner = target.split(".")[:-1]
    here = [path for path in (Path(top), Path(f"{top}.py")) if path.exists()]
    ours = (CONF.parent / top).joinpath(*inner)
    is_ours = bool(inner) and (ours.is_dir() or ours.with_suffix(".py").exists())
    if not here or Path.cwd() == CONF.parent or is_ours:
        return
    for names, owner in ((OWN, "attnbench"), (sys.stdlib_module_names, "Python")):
        if top in names:
            message = f"{here[0]} of this folder is hidden by a module of {owner}: rename yours"
            raise UserError(f"attention._target_={target}: {message}")


if __name__ == "__main__":
    main()
