"""The command line: list, show, run, tour, report.

Results for programs go to standard output (`--json`, list, show, report), everything else to
standard error. Exit codes: 0 done; 1 a row is out of tolerance under `--check`; 2 what was asked
for cannot be done, in one line; 130 interrupted, with the command that goes on.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from microtensor.io import LoadError, write_atomically
from tasks import registry, report
from tasks.console import ProgressBar, say, show_rows
from tasks.folder import to_json
from tasks.harness import Task, UsageError
from tasks.runner import check, run_task
from tasks.scheduling import Options, Stopped
from tasks.settings import Given, split_settings, with_settings

EPILOG = """\
examples:
  python -m tasks                                   what there is
  python -m tasks tour                              all that takes seconds, with real figures
  python -m tasks show sin_cos                      what it claims, its equations and settings
  python -m tasks run sin_cos --check               the document's settings; exit code 1 if missed
  python -m tasks run sin_cos --trials 3 --learning-rate 0.01 --out runs/faster
  python -m tasks report runs                       the table, published against ours, as Markdown
  python -m tasks report runs --to docs/results.md  a page, with figures and results beside it
"""


class _Parser(argparse.ArgumentParser):
    """argparse, but for its two-line errors."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _command(given)
    except UsageError as error:
        say(f"tasks: {' '.join(str(error).split())}")
        return 2
    except LoadError as error:
        # A file that is damaged can only go; one that could not be read may be whole.
        advice = "" if isinstance(error.__cause__, OSError) else "; remove it to go on without it"
        say(f"tasks: {error}{advice}")
        return 2
    except MemoryError as error:
        advice = "what was finished is kept: go on with --resume, with fewer --jobs or trials"
        say(f"tasks: there is not enough memory ({error}); {advice}")
        return 2
    except BrokenPipeError:  # whoever read our output has heard enough (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:  # of standard output, for example
        say(f"tasks: {error}")
        return 2
    except (Stopped, KeyboardInterrupt) as stop:
        saved = "stopped; what was computed is saved." if isinstance(stop, Stopped) else "stopped."
        resume = [*given, *([] if "--resume" in given else ["--resume"])]
        say(f"{saved} Go on with:\n  python -m tasks {shlex.join(resume)}")
        return 130


def _command(given: list[str]) -> int:
    if not given:
        print(_list())
        return 0
    parser = _parser()
    settings: Given = []
    if given[0] in ("run", "tour"):
        known = parser.get_default("known_options")
        given, settings = split_settings(given, known, [*registry.names(), *registry.DOCUMENTS])
    options = parser.parse_args(given)
    match options.command:
        case "run":
            return _run(registry.select(options.names), options, settings)
        case "tour":
            return _tour(options, settings)
        case "show":
            print("\n\n".join(_show(task) for task in registry.select(options.names)))
        case "list":
            print(_list())
        case "report":
            if not options.folder:
                raise UsageError("report: name a folder of runs; got ''")
            return _report(Path(options.folder), options.to)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m tasks",
        description=__doc__,
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    how = _Parser(add_help=False, allow_abbrev=False)
    add = how.add_argument
    add("--seed", type=int, default=0, help="seed of all random numbers (default 0)")
    add("--trials", type=int, help="independent repetitions (default: the preset's)")
    add("--jobs", type=int, help="worker processes (default: one for each core; 1 on a GPU)")
    add("--backend", choices=("numpy", "cupy"), default="numpy", help="where arrays live")
    add("--cluster", metavar="ADDRESS", help="a Dask scheduler to send the trials to")
    add(
        "--out",
        default="runs",
        metavar="DIR",
        help="where runs are kept, each in DIR/NAME-PRESET (default: runs)",
    )
    add(
        "--data",
        metavar="DIR",
        help="an existing folder, where data sets are "
        "kept or fetched to; then MICROTENSOR_DATA and the user's cache folder are searched",
    )
    add("--json", action="store_true", help="one line of JSON a run on standard output")
    add("--check", action="store_true", help="exit with 1 if a row is out of tolerance")
    add("--resume", action="store_true", help="go on with what --out holds")
    add(
        "--save-every",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how often a trial that is training is saved (default 10)",
    )
    add("--no-plots", action="store_true", help="draw no figures")
    add("--tensorboard", action="store_true", help="write event files for TensorBoard")
    add("--live", action="store_true", help="redraw the picture while it trains (implies --jobs 1)")

    run = commands.add_parser(
        "run",
        parents=[how],
        allow_abbrev=False,
        help="run experiments",
        description="Run experiments. Every setting of an experiment (see `show NAME`) is an "
        "option too: --learning-rate 0.01. All experiments that have the setting take it.",
    )
    run.add_argument("names", nargs="+", metavar="NAME|000…004|all")
    run.add_argument(
        "--preset",
        choices=("quick", "document"),
        default="document",
        help="quick proves the wiring and no more; document (default) is the real thing",
    )
    commands.add_parser(
        "tour",
        parents=[how],
        allow_abbrev=False,
        help="run all experiments that take seconds, with real figures",
    )
    commands.add_parser("list", allow_abbrev=False, help="the same as no command: what there is")
    show = commands.add_parser("show", allow_abbrev=False, help="say what an experiment is about")
    show.add_argument("names", nargs="+", metavar="NAME|000…004|all")
    table = commands.add_parser(
        "report", allow_abbrev=False, help="published against ours, Markdown"
    )
    table.add_argument(
        "folder", nargs="?", default="runs", metavar="DIR", help="folder of runs (default: runs)"
    )
    table.add_argument(
        "--to",
        metavar="PAGE.md",
        help="write the page there, and copy the figures into the folder PAGE beside it",
    )
    # Which options are ours and whether a value follows; every other one is a setting.
    known = {name: action.nargs != 0 for action in run._actions for name in action.option_strings}
    parser.set_defaults(known_options=known)
    return parser


# -- run and tour ------------------------------------------------------------------------------


def _run(
    chosen: list[Task], options: argparse.Namespace, settings: Given, tour: bool = False
) -> int:
    _check_options(options)
    _check_installed(options, settings)
    planned = [
        (task, own, _how(task, options))
        for task, own in zip(
            chosen,
            with_settings(
                chosen,
                options.preset,
                settings,
                trials=[
                    task.tour_trials if tour and options.trials is None else options.trials
                    for task in chosen
                ],
            ),
            strict=True,
        )
    ]
    for plan in planned:  # all of them before the first runs: a slip in the last costs no waiting
        check(*plan)
    missed = 0
    for task, own, how in planned:
        say(
            f"{task.name}, preset {options.preset} (about {task.durations[options.preset]} "
            f"on two cores): {task.title}"
        )
        with ProgressBar(task.name) as progress:
            result = run_task(task, own, how, progress)
        _tell(result, how)
        missed += sum(row["ok"] is False for row in result["rows"])
        if options.json:
            print(to_json(report.summary(result), indent=None), flush=True)
    if missed:
        say(f"{missed} row{'s are' if missed > 1 else ' is'} out of tolerance.")
    return 1 if missed and options.check else 0


def _tell(result: dict[str, Any], how: Options) -> None:
    show_rows(result)
    if result["printout"]:
        say(textwrap.indent(result["printout"].rstrip(), "  "))
    if how.preset == "quick":
        say("  Preset quick proves that everything is wired up, and nothing more.")
    figures = f", figures {', '.join(result['figures'])}" if result["figures"] else ""
    say(f"  {result['seconds']:.1f} s; everything is in {how.folder}{figures}\n")


def _how(task: Task, options: argparse.Namespace) -> Options:
    jobs = options.jobs
    if jobs is None:
        jobs = 1 if options.live or options.backend == "cupy" else _cores()
    return Options(
        folder=Path(options.out) / f"{task.name}-{options.preset}",
        preset=options.preset,
        seed=options.seed,
        backend=options.backend,
        jobs=jobs,
        cluster=options.cluster,
        data=options.data,
        resume=options.resume,
        plots=not options.no_plots,
        tensorboard=options.tensorboard,
        live=options.live,
        save_every=options.save_every,
    )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_installed(options: argparse.Namespace, settings: Given) -> None:
    """What a run will import at its end must be there at its beginning."""
    needed = {
        "rich": True,
        "tyro": bool(settings),
        "matplotlib": options.live or not options.no_plots,
        "tensorboardX": options.tensorboard,
        "distributed": options.cluster is not None,
    }
    for name, wanted in needed.items():
        if wanted and importlib.util.find_spec(name) is None:
            extra = "cluster" if name == "distributed" else "tasks"
            raise UsageError(
                f"this needs {name}, which is not installed; the extra {extra!r} brings it: "
                f"python -m pip install -e '.[{extra}]'"
            )


def _check_options(options: argparse.Namespace) -> None:
    if options.seed < 0 or options.seed >= 2**32:
        raise UsageError(f"--seed must be from 0 to 4294967295; got {options.seed}")
    for name in ("trials", "jobs"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1; got {value}")
    if not options.save_every >= 0:
        raise UsageError(f"--save-every must be at least 0 seconds; got {options.save_every}")
    if options.data is not None and not os.path.isdir(options.data):
        raise UsageError(
            f"--data: there is no folder {options.data}; make it first, also where data sets are "
            "still to be fetched into it"
        )
    if not options.out:
        raise UsageError("--out must name a folder; got ''")
    if options.live and (options.cluster or (options.jobs or 1) > 1):
        raise UsageError("--live draws what trains in this process: leave out --jobs and --cluster")
    if options.cluster and options.jobs:
        raise UsageError("--jobs and --cluster exclude each other: the cluster has its own workers")


def _tour(options: argparse.Namespace, settings: Given) -> int:
    options.preset = "document"
    chosen = [task for task in map(registry.load, registry.names()) if task.tour]
    if options.live:
        raise UsageError("tour: --live is for a single experiment, `run NAME --live`")
    started = time.perf_counter()
    say(f"The tour: {', '.join(map(_stop, chosen))}, at their documents' settings.\n")
    code = _run(chosen, options, settings, tour=True)
    say(
        f"That was the tour, {time.perf_counter() - started:.0f} s. Read on with "
        "`python -m tasks show NAME`, or see it all on one page: "
        f"`python -m tasks report {shlex.quote(options.out)}`."
    )
    return code


def _stop(task: Task) -> str:
    return f"{task.name} ({task.tour_trials} trials)" if task.tour_trials else task.name


def _report(folder: Path, page: str | None) -> int:
    if page is not None:
        report.write_page(folder, Path(page))
        say(f"written to {page}")
        return 0
    text = report.markdown(folder)
    print(text, end="")
    try:
        write_atomically(folder / "report.md", text.encode())
        say(f"also in {folder / 'report.md'}, where the figures' links hold")
    except OSError as error:
        say(f"not written to {folder / 'report.md'}: {error.strerror}")
    return 0


# -- list and show -----------------------------------------------------------------------------


def _list() -> str:
    tasks = [registry.load(name) for name in registry.names()]
    name = max(len(task.name) for task in tasks)
    quick, document = (
        max(len(preset), *(len(task.durations[preset]) for task in tasks))
        for preset in ("quick", "document")
    )
    lines = ["The documents' experiments. A duration is for two cores.", ""]
    lines.append(f"  {'':{name}}  {'quick':>{quick}}  {'document':>{document}}")
    for number, title in registry.DOCUMENTS.items():
        own = [task for task in tasks if number in task.documents]
        if not own:
            continue
        lines.append(f"{number}  {title}")
        for task in own:
            times = task.durations
            lines.append(
                f"  {task.name:{name}}  {times['quick']:>{quick}}  {times['document']:>{document}}"
                f"  {task.title}{'  [tour]' if task.tour else ''}"
            )
        lines.append("")
    lines += [
        "python -m tasks tour         runs those marked [tour], at their documents' settings",
        "python -m tasks show NAME    the claim, the equations, the settings, what to look for",
        "python -m tasks run NAME     trains and compares with the published figures (--preset",
        "                             quick proves the wiring in seconds); --help has the options",
    ]
    return "\n".join(lines)


def _show(task: Task) -> str:
    lines = [f"{task.name} (document {', '.join(task.documents)}): {task.title}"]
    lines += ["", *_paragraphs(task.claim), "", *_indented(task.equations)]
    lines += ["", "Settings (quick | document):", *_settings(task)]
    levels = task.levels(task.presets["document"])
    if levels:
        lines += ["", "Reference levels:"]
        lines += [f"  {report.number(level.value):>9}  {level.name}" for level in levels]
    for data in task.data(task.presets["document"]):
        files = " or ".join(file.name for file in data.files)
        lines += ["", *_paragraphs(f"Data: {data.name}, {data.about}: {files}. {data.citation}")]
    lines += ["", "What to look for:", "", *_paragraphs(task.look_for)]
    lines += [
        "",
        f"Takes {task.durations['quick']} (quick), {task.durations['document']} (document).",
    ]
    return "\n".join(lines)


def _settings(task: Task) -> list[str]:
    """Each setting with its values at both presets, and what it means."""
    quick, document = (task.presets[name] for name in ("quick", "document"))
    lines = []
    for name, about in task.settings.describe().items():
        values = [repr(getattr(preset, name)) for preset in (quick, document)]
        lines.append(f"  --{name.replace('_', '-'):22}{' | '.join(values)}")
        lines += textwrap.wrap(about, 96, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return lines


def _paragraphs(text: str) -> list[str]:
    parts = [" ".join(part.split()) for part in textwrap.dedent(text).strip().split("\n\n")]
    return "\n\n".join(textwrap.fill(part, 96) for part in parts).split("\n")


def _indented(text: str) -> list[str]:
    return textwrap.indent(textwrap.dedent(text).strip("\n"), "    ").split("\n")
