"""``fit``, ``validate`` and ``test``: Lightning's command line with what a run of unlearning needs."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lit_unlearn.attacks import Evaluation
from lit_unlearn.attacks.plausibility import before_run
from lit_unlearn.backbones.memory_format import MemoryFormatChoice
from lit_unlearn.backbones.reading import check_checkpoint
from lit_unlearn.checkpoint_path import (
    check_purpose,
    interrupted,
    is_unnamed,
    last_checkpoint,
    method_name,
    root_of,
    root_without_logger,
    use_given_root,
)
from lit_unlearn.errors import UsageError, check_no_folder, unknown
from lit_unlearn.files import DISK_FULL, of_file
from lit_unlearn.forget_rule import with_whole_rules
from lit_unlearn.methods.checks import check_original, check_run, check_trains
from lit_unlearn.parsing import as_list, known_options
from lit_unlearn.reports.report import Report, report_of
from lit_unlearn.reports.run_directory import claim_directory, release_directory
from lit_unlearn.resuming import HARMLESS, check_allowed, check_resumed, seed_of, settings_by_kind
from lit_unlearn.retraining import retrained
from lit_unlearn.run_files import CACHE
from lit_unlearn.seed import isolated_rng
from lit_unlearn.shipped import is_config, is_own, with_configs
from lit_unlearn.suites import lacks_of_suite
from lit_unlearn.trainer_options import check_values, refused_by_trainer

_AUTO = "auto"
_LIGHTNINGS_WORDS = ("best", "hpc", "registry")
"""What Lightning takes in place of a file; none of them means anything in a process that has just begun."""


class UnlearnCLI(LightningCLI):
    """LightningCLI with the evaluation and the report in every run, and run directories named after the method.

    Attributes:
        goes_on: whether an attack that raises an error is left out, and the others are run.
    """

    goes_on: ClassVar[bool] = False
    _claimed: Path | None = None
    _numbered = False

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds ``--evaluation.…``, ``--report.…``, ``--compile``, ``--memory_format`` and ``--resume.allow``."""
        parser.add_lightning_class_args(Evaluation, "evaluation")
        parser.set_defaults({"evaluation.cache": _AUTO})
        parser.add_lightning_class_args(Report, "report")
        parser.add_argument(
            "--compile",
            type=bool | str,
            default=False,
            help="whether training passes of fit run compiled: true, or the name of a backend of torch.compile",
        )
        parser.add_argument(
            "--memory_format",
            type=MemoryFormatChoice,
            default="auto",
            help="of convolutions in the run and its attacks; auto is the one that a probe of a few steps finds faster",
        )
        parser.add_argument(
            "--resume.allow",
            type=list[str] | str,
            default=[],
            help=f"kinds of settings that fit --ckpt_path may change: {', '.join(HARMLESS)}",
        )
        parser.set_defaults({"data": {"class_path": "lit_unlearn.data.UnlearnDataModule"}})

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, without ``predict``: there is nothing to predict with."""
        return {name: skip for name, skip in LightningCLI.subcommands().items() if name != "predict"}

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses, finds the checkpoint that ``last`` means, and checks a checkpoint before anything is read from it.

        Raises:
            UsageError: if ``ckpt_path`` is no file, is corrupt, holds more than plain values, or not enough of them, or
                is of a run with other settings.
        """
        words = sys.argv[1:] if args is None else args
        if isinstance(words, list):
            with known_options(parser):
                self.config = parser.parse_args(with_whole_rules(with_configs(words)))
        else:
            super().parse_arguments(parser, words)
        settings, subcommand = self._settings(), self.config["subcommand"]
        self._weights = settings.model.get("init_args", {}).get("weights")
        if self._weights is not None and is_own(self._weights):
            check_no_folder("model.weights", self._weights)
        check_no_folder("ckpt_path", settings.get("ckpt_path"))
        use_given_root(settings.trainer)
        if settings.get("ckpt_path") == "last":
            settings.ckpt_path = last_checkpoint(settings, subcommand)
        allowed = check_allowed(settings.resume.allow)
        self._given = settings_by_kind(self._parser(subcommand), settings)
        check_values(self._given["run"])
        path = settings.get("ckpt_path")
        if path and (word := str(path).partition(":")[0]) in _LIGHTNINGS_WORDS and not Path(path).is_file():
            raise UsageError(f"ckpt_path is {word!r}, but must be a file, or last for the latest of this configuration")
        if path:
            held = check_checkpoint(path)
            check_purpose(path, held, subcommand)
            if subcommand == "fit":
                self._resume(path, held, allowed)

    def _resume(self, path: str | Path, held: dict[str, Any], allowed: list[str]) -> None:
        """Checks that a run goes on with its own settings; a seed that it has drawn is its own."""
        settings, seed = self._settings(), seed_of(held)
        if settings.seed_everything is True and seed is not None:
            settings.seed_everything = self._given["run"]["seed_everything"] = seed
        check_resumed(path, held, self._given, allowed)

    def before_instantiate_classes(self) -> None:
        """Names the run directory after the method, and refuses what cannot be run whatever the data are.

        The original lies where the user says: the place that a checkpoint names may be of another machine.

        Raises:
            UsageError: if there are no weights, or nothing would be trained.
        """
        settings = self._settings()
        self._refuse_random_weights()
        if self.subcommand == "fit":
            check_trains(settings.trainer)
        self._check_suite()
        self._given["run"]["seed_everything"] = settings.seed_everything
        self.save_config_kwargs = {"settings": self._given}
        if settings.get("ckpt_path") and self._weights is not None:
            settings.model.init_args.weights = self._weights
        if "verbose" in settings:
            settings.verbose = False  # the report prints the table; Lightning's has a column a loader
        if is_unnamed(settings.trainer.logger):
            settings.trainer.logger.init_args.name = method_name(settings)
        dry = settings.trainer.fast_dev_run  # trains no Retrain and writes nothing
        if dry and self._retrain_config() is not None:
            settings.evaluation.retrain = None
        if settings.evaluation.cache == _AUTO:
            settings.evaluation.cache = None if dry else str(root_of(settings.trainer) / CACHE)

    def _check_suite(self) -> None:
        """Takes the name of a suite from a run that lacks some of its attacks: its rows would pass for others."""
        settings = self._settings()
        suite = settings.evaluation.suite
        if suite and (lacking := lacks_of_suite(suite, as_list(settings.trainer.callbacks))):
            shown = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
            rank_zero_info(f"these are not the attacks of {suite} ({shown} differ or are missing): rows name no suite")
            settings.evaluation.suite = None

    def _retrain_config(self) -> str | None:
        """The config that is given in place of a Retrain."""
        retrain, count = (self._settings().evaluation[name] for name in ("retrain", "retrains"))
        for each in retrain if isinstance(retrain, list) else ():
            if isinstance(each, str) and is_config(each):
                raise UsageError(
                    f"evaluation.retrain: {each} is a config in a list: give it alone, and how many Retrains it is to "
                    "train as evaluation.retrains"
                )
        if count > 1 and retrain is not None and not (isinstance(retrain, str | Path) and is_config(retrain)):
            raise UsageError(
                f"evaluation.retrains is {count}, but evaluation.retrain is no config that trains them: list the "
                "weights in evaluation.retrain"
            )
        return str(retrain) if isinstance(retrain, str | Path) and is_config(retrain) else None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer; without a logger, which would count versions, each run gets a root of its own."""
        settings = self._settings()
        if not settings.trainer.logger and not settings.trainer.fast_dev_run:
            root, given = root_without_logger(settings), settings.trainer.default_root_dir
            self._numbered = given is None or root != Path(given)
            kwargs["default_root_dir"] = str(root)
        with refused_by_trainer(settings.trainer):
            return super().instantiate_trainer(**kwargs)

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs in the memory format, and leaves no directory of a run that is refused before it begins.

        Of a full disk that another library found, it names the run's directory.
        """
        self.model.memory_format = self._settings().memory_format
        evaluation_of(self.trainer).goes_on = self.goes_on
        try:
            super()._run_subcommand(subcommand)
        except UsageError:
            if self._claimed is not None and not evaluation_of(self.trainer).began:
                release_directory(self._claimed)
            raise
        except OSError as error:
            place = report_of(self.trainer).directory
            if error.errno in DISK_FULL and error.filename is None and place is not None:
                raise of_file(error, place) from error
            raise
        except SystemExit as error:  # Lightning ends so after Ctrl-C, and after SIGTERM
            terminated = isinstance(error, SIGTERMException)
            if not terminated and not isinstance(error.__context__, KeyboardInterrupt):
                raise
            if self.trainer.is_global_zero:
                print(interrupted(self.trainer, report_of(self.trainer).model), file=sys.stderr)
            sys.exit(143 if terminated else 130)

    def before_validate(self) -> None:
        """Looks at the weights, finds the Retrain that fit has trained, and takes a run directory of its own."""
        self._check_original()
        self._find_retrain(trains=False)
        self._claimed = claim_directory(self.trainer, self._numbered)

    def before_test(self) -> None:
        """The same."""
        self.before_validate()

    def before_fit(self) -> None:
        """Finds or trains the Retrain that a config is given for, compiles the network, and takes a run directory.

        Raises:
            UsageError: for a backend that is not there, a monitor that will not be, or a run that cannot begin.
        """
        self._check_monitors()
        self._find_retrain(trains=True)
        backend = self._settings().compile
        if backend is not False:
            backend = "inductor" if backend is True else backend
            backends = ["eager", "aot_eager", *torch.compiler.list_backends()]
            if backend not in backends:
                raise unknown("backend to compile with", backend, ["true", "false", *backends])
            self.model.backbone.compile(backend=backend)
        self._claimed = claim_directory(self.trainer, self._numbered)

    def after_fit(self) -> None:
        """Attacks a model whose training a resumed run found finished: Lightning then calls no hook of training."""
        report = report_of(self.trainer)
        path, dry = self._settings().ckpt_path, self._settings().trainer.fast_dev_run
        if report.rows or dry:
            return
        if path is None:
            raise UsageError("nothing was trained, so nothing was measured: trainer.max_time was over before it began")
        self.model.trained_before = True
        self.trainer.validate(self.model, datamodule=self.datamodule, ckpt_path=path, verbose=False)

    def _refuse_random_weights(self) -> None:
        """Refuses a network that nobody trained as the original, unless it is said to be ``fresh``."""
        model = self._settings().model
        given = model.get("init_args", {})
        pretrained = (given.get("backbone") or {}).get("init_args", {}).get("pretrained", False)
        module, _, name = str(model.class_path).rpartition(".")
        method = getattr(import_module(module), name)
        alone = getattr(method, "from_scratch", False) and not getattr(method, "needs_original", False)
        if "weights" not in given and not alone and not pretrained:
            raise UsageError(
                f"{module}.{name} takes no weights: give its __init__ an argument weights, and hand it on to the base "
                "class (docs/add-a-method.md)"
            )
        if given.get("weights") is None and not alone and not pretrained:
            raise UsageError(
                "model.weights is missing: give the trained network's weights, or 'fresh' for the backbone as it is "
                "constructed, which nothing has trained"
            )

    def _check_original(self) -> None:
        """Refuses weights that have forgotten where no checkpoint is measured, but the original."""
        if not self._settings().get("ckpt_path"):
            check_original(self.model, self.datamodule)

    def _find_retrain(self, trains: bool) -> None:
        """Finds the Retrain of a config, or trains it once it is known that the run itself can begin."""
        config, count = self._retrain_config(), self._settings().evaluation.retrains
        if config is None:
            if count > 1:
                rank_zero_info(f"evaluation.retrains is {count}, but evaluation.retrain is null: no Retrain is trained")
            return
        if trains:
            self.model.trainer = self.trainer  # as Lightning does when the run begins: methods check their epochs
            check_run(self.model, self.datamodule, fits=True)
            for flag in before_run(self.datamodule, self.model.original_copy(), [], torch.device("cpu")):
                rank_zero_warn(flag.text)
        settings = self._settings()
        with isolated_rng():  # the run draws what it would draw without it
            folder = root_of(settings.trainer) / "retrain"
            paths = [str(retrained(config, settings.as_dict(), folder, number, trains)) for number in range(count)]
        settings.evaluation.retrain = paths if count > 1 else paths[0]
        evaluation_of(self.trainer).retrain = list(paths)

    def _check_monitors(self) -> None:
        """Refuses what EarlyStopping cannot find, as far as it is known: the package's methods log accuracies alone."""
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        monitors = [str(callback.monitor) for callback in callbacks if isinstance(callback, EarlyStopping)]
        asked = [name for name in monitors if name.startswith("val/")]
        if asked and type(self.model).__module__.startswith("lit_unlearn."):
            logged = [f"val/{split}_acc" for split in self.datamodule.split_names]
            for monitor in set(asked) - set(logged):
                raise unknown("monitor of EarlyStopping:", monitor, logged)

    def _settings(self) -> Any:
        return self.config[self.config["subcommand"]]


def evaluation_of(trainer: Trainer) -> Evaluation:
    """The evaluation among a Trainer's callbacks, which the command line always adds."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return next(callback for callback in callbacks if isinstance(callback, Evaluation))
