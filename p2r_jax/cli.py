"""The ``p2r`` command: each subcommand's options are a config tree, parsed by tyro."""

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

USAGE = "usage: p2r COMMAND ...; `p2r COMMAND --help` lists its options"


class UsageError(Exception):
    """A command line that cannot be run; the message says how to mend it."""


def tasks(args: Sequence[str]) -> None:
    """List the tasks: object, theta with its training range, control."""
    from p2r_jax.plugins import PluginError
    from p2r_jax.tasks import load_task, task_names

    if args:
        raise UsageError("p2r tasks takes no options")
    for name in task_names():
        try:
            task = load_task(name)
        except PluginError as error:  # the others are still worth listing
            print(f"{name}: {error}")
            continue
        print(
            f"{name}: {task.object.name}, {task.episode_length} actions of "
            f"{100 * task.action_scale_m:g} cm at {1 / task.control_period_s:g} Hz"
        )
        for t in task.theta:
            print(
                f"  theta {t.name} [{t.low:+.4f}, {t.high:+.4f}] {t.unit}, "
                f"mean {t.mean:+.4f}, s.d. {t.std:.4f}"
            )


def train(args: Sequence[str]) -> None:
    """Train a policy: p2r train TASK privileged|noisy|dr --out DIR [--init DIR] [--resume]."""
    import tyro

    from p2r_jax.policy.train import PHASES, TrainConfig, default_train
    from p2r_jax.policy.train import train as run
    from p2r_jax.runs.videos import episode_videos

    task, args = _positional(args, "TASK", _task_names(), "train")
    phase, args = _positional(args, "PHASE", PHASES, f"train {task}")
    default = default_train(task, phase, tyro.MISSING)
    config = tyro.cli(TrainConfig, default=default, args=args, prog=f"p2r train {task} {phase}")
    run(config, episode_videos(config))


def train_estimator(args: Sequence[str]) -> None:
    """Train an estimator: p2r train-estimator TASK --policy DIR --out DIR [--resume]."""
    import tyro

    from p2r_jax.estimator.train import EstimatorConfig
    from p2r_jax.estimator.train import train_estimator as run
    from p2r_jax.tasks import load_task

    task, args = _positional(args, "TASK", _task_names(), "train-estimator")
    default = EstimatorConfig(load_task(task), tyro.MISSING, tyro.MISSING)
    run(tyro.cli(EstimatorConfig, default=default, args=args, prog=f"p2r train-estimator {task}"))


def train_adaptor(args: Sequence[str]) -> None:
    """Train the adaptor of a latent policy: p2r train-adaptor TASK --policy DIR --out DIR."""
    import tyro

    from p2r_jax.estimator.adaptor import default_adaptor
    from p2r_jax.estimator.adaptor import train_adaptor as run
    from p2r_jax.estimator.train import EstimatorConfig
    from p2r_jax.tasks import load_task

    task, args = _positional(args, "TASK", _task_names(), "train-adaptor")
    default = default_adaptor(load_task(task), tyro.MISSING, tyro.MISSING)
    run(tyro.cli(EstimatorConfig, default=default, args=args, prog=f"p2r train-adaptor {task}"))


def evaluate(args: Sequence[str]) -> None:
    """Closed-loop trials of methods and weight positions: p2r evaluate --out DIR ..."""
    import tyro

    from p2r_jax.evaluation.evaluate import EvaluateConfig
    from p2r_jax.evaluation.evaluate import evaluate as run

    run(tyro.cli(EvaluateConfig, args=args, prog="p2r evaluate"))


def demo(args: Sequence[str]) -> None:
    """The whole loop with the shipped checkpoints: table, figures, videos."""
    import tyro

    from p2r_jax.evaluation.demo import DemoConfig
    from p2r_jax.evaluation.demo import demo as run

    run(tyro.cli(DemoConfig, args=args, prog="p2r demo"))


def play(args: Sequence[str]) -> None:
    """Video of one episode: a checkpoint, zero or random actions, or a dump (--dump FILE)."""
    import tyro

    from p2r_jax.evaluation.play import PlayConfig
    from p2r_jax.evaluation.play import play as run

    run(tyro.cli(PlayConfig, args=args, prog="p2r play"))


def replay(args: Sequence[str]) -> None:
    """Replay a log of real pushes, or draw a run of p2r deploy again: p2r replay LOG|RUN."""
    import tyro

    from p2r_jax.deploy.record import is_run

    if args and is_run(args[0]):
        from p2r_jax.deploy.rerender import RerenderConfig, rerender

        rerender(tyro.cli(RerenderConfig, args=args, prog="p2r replay"))
        return
    from p2r_jax.evaluation.replay import ReplayConfig, replay_command

    replay_command(tyro.cli(ReplayConfig, args=args, prog="p2r replay"))


def prior(args: Sequence[str]) -> None:
    """What pictures of an object say about theta: p2r prior IMAGES... --out prior.json."""
    import tyro

    from p2r_jax.prior.command import PriorConfig, make_prior

    make_prior(tyro.cli(PriorConfig, args=args, prog="p2r prior"))


def reconstruct(args: Sequence[str]) -> None:
    """From a film or photos to an object that trains: p2r reconstruct CAPTURE --out DIR."""
    import tyro

    from p2r_jax.real2sim.pipeline import ReconstructConfig, preset_config
    from p2r_jax.real2sim.pipeline import reconstruct as run

    default = preset_config(_named(args, "--preset", "portable"), tyro.MISSING, tyro.MISSING)
    done = run(tyro.cli(ReconstructConfig, default=default, args=args, prog="p2r reconstruct"))
    print(f"report: {done.report}")
    if "asset" in done.results:
        print(f"train it with `p2r train {done.out} privileged --out RUN`")


def task(args: Sequence[str]) -> None:
    """Make a task folder from a mesh: p2r task new --mesh FILE --mass KG --out DIR."""
    import tyro

    from p2r_jax.mesh_task import NewTaskConfig, new_task

    _, args = _positional(args, "ACTION", ("new",), "task")
    flat = (tyro.conf.OmitArgPrefixes,)
    new_task(tyro.cli(NewTaskConfig, args=args, prog="p2r task new", config=flat))


def identify(args: Sequence[str]) -> None:
    """Centre of mass from a log of pushes, or a run: p2r identify LOG|RUN --out DIR [--asset A]."""
    import tyro

    from p2r_jax.deploy.record import is_run, read_run
    from p2r_jax.estimator.identify import IdentifyConfig
    from p2r_jax.estimator.identify import identify as run

    config = tyro.cli(IdentifyConfig, args=args, prog="p2r identify")
    if is_run(config.log):
        from p2r_jax.deploy.record.pushes import write_pushes

        asset = config.asset or read_run(config.log).header.asset or None
        config = replace(config, log=write_pushes(config.log), asset=asset)
    run(config)


def export(args: Sequence[str]) -> None:
    """Put what a robot needs into one folder: p2r export --out BUNDLE [--stablehlo] [--onnx]."""
    import tyro

    from p2r_jax.deploy.export import ExportConfig
    from p2r_jax.deploy.export import export as run

    run(tyro.cli(ExportConfig, args=args, prog="p2r export"))


def deploy(args: Sequence[str]) -> None:
    """Run a bundle on a robot: p2r deploy --bundle B --out DIR [--robot R] [--tracker T]."""
    import tyro

    from p2r_jax.deploy.command import DeployConfig, deploy_command

    deploy_command(tyro.cli(DeployConfig, args=args, prog="p2r deploy"))


def recover(args: Sequence[str]) -> None:
    """Runs of p2r deploy, killed ones too, as a LeRobot dataset: p2r recover RUN... [--out DIR]."""
    import tyro

    from p2r_jax.deploy.record import RecoverConfig
    from p2r_jax.deploy.record import recover as run

    run(tyro.cli(RecoverConfig, args=args, prog="p2r recover"))


def sweep(args: Sequence[str]) -> None:
    """Many runs from one file, continued where it stopped: p2r sweep FILE, p2r sweep status DIR."""
    import tyro

    from p2r_jax.sweep.command import StatusConfig, SweepConfig, status_command, sweep_command

    if args and args[0] == "status":
        status_command(tyro.cli(StatusConfig, args=args[1:], prog="p2r sweep status"))
    elif not sweep_command(tyro.cli(SweepConfig, args=args, prog="p2r sweep")):
        raise SystemExit(1)


def runs(args: Sequence[str]) -> None:
    """List the runs below a folder: p2r runs [DIR]; p2r runs export [DIR] --mlflow OUT."""
    import tyro

    if args and args[0] == "export":
        from p2r_jax.runs.mlflow import ExportConfig, export

        export(tyro.cli(ExportConfig, args=args[1:], prog="p2r runs export"))
        return
    from p2r_jax.runs.listing import RunsConfig, list_runs

    list_runs(tyro.cli(RunsConfig, args=args, prog="p2r runs"))


def compare(args: Sequence[str]) -> None:
    """Runs side by side, with intervals over seeds: p2r compare RUN RUN... --out DIR."""
    import tyro

    from p2r_jax.runs.compare import CompareConfig
    from p2r_jax.runs.compare import compare as run

    run(tyro.cli(CompareConfig, args=args, prog="p2r compare"))


def reproduce(args: Sequence[str]) -> None:
    """Do a run again from its folder and say whether it matched: p2r reproduce RUN --out DIR."""
    import tyro

    from p2r_jax.runs.reproduce import ReproduceConfig
    from p2r_jax.runs.reproduce import reproduce as run

    if not run(tyro.cli(ReproduceConfig, args=args, prog="p2r reproduce")):
        raise SystemExit(1)


def bench(args: Sequence[str]) -> None:
    """Benchmarks of this checkout: p2r bench [NAME...], p2r bench --compare A B."""
    import tyro

    from p2r_jax.bench.command import BenchConfig
    from p2r_jax.bench.command import bench as run

    run(tyro.cli(BenchConfig, args=args, prog="p2r bench"))


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "tasks": tasks,
    "train": train,
    "train-estimator": train_estimator,
    "train-adaptor": train_adaptor,
    "evaluate": evaluate,
    "demo": demo,
    "play": play,
    "replay": replay,
    "identify": identify,
    "prior": prior,
    "reconstruct": reconstruct,
    "task": task,
    "export": export,
    "deploy": deploy,
    "recover": recover,
    "sweep": sweep,
    "runs": runs,
    "compare": compare,
    "reproduce": reproduce,
    "bench": bench,
}


def _task_names() -> tuple[str, ...]:
    from p2r_jax.tasks import task_names

    return task_names()


def _positional(args: Sequence[str], what: str, choices: Sequence[str], command: str):
    """First argument, which must be one of ``choices``, and the rest."""
    from p2r_jax.plugins import is_import_path

    if not args or args[0].startswith("-"):
        raise UsageError(f"p2r {command}: give a {what} first, one of: {', '.join(choices)}")
    if what == "TASK" and (is_import_path(args[0]) or Path(args[0], "task.json").is_file()):
        return args[0], args[1:]
    if args[0] not in choices:
        raise UsageError(f"p2r {command}: no {what} {args[0]!r}{_suggest(args[0], choices)}")
    return args[0], args[1:]


def _named(args: Sequence[str], option: str, default: str) -> str:
    """Value of an option that decides the defaults of the others."""
    for arg, following in zip(args, [*args[1:], default], strict=True):
        if arg == option:
            return following
        if arg.startswith(option + "="):
            return arg.partition("=")[2]
    return default


def _suggest(word: str, choices: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, choices, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{hint} (there are: {', '.join(choices)})"


def _prepare_jax() -> None:
    """Compilation cache on, needless log lines off.

    XLA on CPU logs an error for every program it loads from the cache, because it
    compares its own tuning hints with the processor's features. The level is read
    when jaxlib loads, so it is set here, in the program, before the first import.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from p2r_jax.compat import use_compilation_cache

    use_compilation_cache()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        for name, command in COMMANDS.items():
            print(f"  {name:16} {(command.__doc__ or '').splitlines()[0]}")
        return 0 if argv else 2
    try:
        if argv[0] not in COMMANDS:
            raise UsageError(f"no command {argv[0]!r}{_suggest(argv[0], tuple(COMMANDS))}")
        _prepare_jax()
        COMMANDS[argv[0]](argv[1:])
    except (UsageError, OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        print(f"p2r: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
