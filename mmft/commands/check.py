"""`mmft check`: checks config, rows and model without training. Writes nothing but the file of findings, and with
`features=true` the page and the store of frozen work.

config -> splits -> task -> model -> plan -> rows -> one batch, as in `mmft train`, reporting all errors at once
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import Progress

from mmft import build, clock
from mmft.config.compose import Composed
from mmft.config.paths import rebase
from mmft.config.schema.root import CheckConfig
from mmft.data.datamodule import VisionLanguageData
from mmft.data.splitting.splits import Split, load_splits
from mmft.data.targets import Encode
from mmft.errors import ExitCode, UserError
from mmft.files import located, write_records
from mmft.models.language.generative_model import GenerativeModel
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.reports.audit.example import example_rows
from mmft.reports.audit.feature_rows import FeatureRows, feature_rows
from mmft.reports.audit.features import audit_features
from mmft.reports.audit.finding import KINDS, Finding
from mmft.reports.audit.labels import tables_of
from mmft.reports.audit.lengths import lengths_told
from mmft.reports.audit.page import write_page
from mmft.reports.audit.rows import RowAudit
from mmft.reports.audit.step_cost import StepCost, longest_rows, try_steps
from mmft.run.initialise import initialise_from
from mmft.tasks.base import Task
from mmft.tasks.generative import GenerativeTask
from mmft.training.distillation import Distillation
from mmft.training.hardware import choose_hardware
from mmft.tuning.plan import TuningPlan
from mmft.tuning.table import plan_table

T = TypeVar("T")
_USUAL_SIZE = 224  # image size if neither the config nor a model sets it


def check(composed: Composed) -> int:
    """Prints the findings, and at the end whether training would work.

    Returns:
        0 if training would work.

    Raises:
        UserError: with everything that would make it fail.
    """
    checked(composed)
    return ExitCode.DONE


def checked(composed: Composed) -> list[Finding]:
    """The same, and returns the findings."""
    config: CheckConfig = composed.config
    out = None if config.out is None else located(config.out)
    return _Check(rebase(config, Path.cwd()), out).run()


class _Check:
    """One complete check; an error in one part does not stop the others."""

    def __init__(self, config: CheckConfig, out: Path | None) -> None:
        self.config, self.out = config, out
        self.errors: list[str] = []
        self.distillation: Distillation | None = None
        self.devices, self.sharded = config.trainer.devices or 1, config.trainer.strategy == "fsdp"

    def run(self) -> list[Finding]:
        """The whole check; returns what was found in the rows."""
        config = self.config
        self._try(build.choose_for_pair, config, Path.cwd())
        self._try(build.choose_for_whole, config, Path.cwd())
        task = build.build_task(config.task)
        splits = self._try(load_splits, config.data, config.seed)
        fitted = splits is not None and self._fit(splits, task)
        model = self._try(build.build_model, config.model, build.head_maker(config, task) if fitted else 2, config.seed)
        if model is not None and fitted:
            self._try(build.start_head, model, task)
            model = self._try(build.prepare_generation, model, task)
        changed = self._initialised(model, task)
        device, data, rows, features = self._device(), None, None, None
        if splits is not None and fitted and model is not None and device is not None:
            data = self._try(build.build_data, config, splits, model, task)
            if data is not None and isinstance(model, GenerativeModel) and isinstance(task, GenerativeTask):
                _say("examples", example_rows(model, data))
                _say("lengths", lengths_told(model, task, splits))
            rows = self._feature_rows(data, model) if config.features and data is not None else None
        plan = None if model is None else self._plan(model, task, changed)
        readable = fitted and (model is not None or not isinstance(task, GenerativeTask))  # whose words are the model's
        findings = [] if splits is None else self._rows(splits, task if readable else None, model)
        if rows is not None:
            features = audit_features(rows, task, config.audit, findings)
            findings += features.findings
            for name, table in features.tables.items():
                _say(name, table)
        if config.tune.probe is not None:
            _say("steps", f"none: tune.probe={config.tune.probe} is solved at once")
        elif splits is not None and data is not None and model is not None and plan is not None and device is not None:
            self._step(self._subset(splits, data, model, task), model, task, plan, device)
        _tell(findings, config.audit.shown)
        if config.page is not None and features is not None and splits is not None:
            count = write_page(located(config.page), features.findings, splits, config.data)
            print(f"{count:,} of {len(features.findings):,} findings are shown on {config.page}", file=sys.stderr)
        if self.out is not None:
            write_records(self.out, [finding._asdict() for finding in findings], Finding._fields)
            print(f"{len(findings):,} findings written to {self.out}", file=sys.stderr)
        if self.errors:
            raise UserError(self.errors)
        print("Training would work.", flush=True)
        return findings

    def _try(self, make: Callable[..., T], *args: Any) -> T | None:
        """Calls a part of training; on failure records the error and returns None."""
        try:
            return make(*args)
        except UserError as error:
            self.errors += [message for message in error.messages if message not in self.errors]
            return None

    def _fit(self, splits: Mapping[str, Split], task: Task) -> bool:
        """Checks rows and labels; returns whether the task can be learned from them."""
        _say("rows", "  ".join(f"{name} {len(split):,}" for name, split in splits.items()))
        for title, table in tables_of(splits, task).items():
            _say(title, table)
        before, train = len(self.errors), splits["train"]
        self._try(build.fit_task, task, train)
        fitted = len(self.errors) == before
        if fitted:
            self._try(build.check_monitoring, self.config, task, splits)
        return fitted

    def _initialised(self, model: VisionLanguageModel | None, task: Task) -> Iterable[str]:
        """Gives the model the weights of `init`, if any; returns the encoders that have them."""
        config = self.config
        if config.init is None or model is None:
            return ()
        return self._try(initialise_from, config.init, located(config.paths.runs), model, task) or ()

    def _device(self) -> torch.device | None:
        """The device that everything is tried on, of which there is one here."""
        self.config.trainer.devices, self.config.trainer.strategy = 1, "ddp"
        return self._try(choose_hardware, self.config.trainer)

    def _feature_rows(self, data: VisionLanguageData, model: VisionLanguageModel) -> FeatureRows:
        """The features of the rows, before anything of the encoders is tuned."""
        with _progress() as progress:
            tick = partial(progress.advance, progress.add_task("features", total=sum(data.rows.values())))
            return feature_rows(self.config, model, data.datasets, tick)

    def _plan(self, model: VisionLanguageModel, task: Task, changed: Iterable[str]) -> TuningPlan | None:
        """The tuning plan."""
        config = self.config
        build.add_auxiliary(config, model, task)
        self.distillation = self._try(build.build_distillation, config, model)
        plan = self._try(build.build_plan, config, model, changed)
        if plan is not None:
            Console(width=140, file=sys.stdout).print(plan_table(plan))
            print(flush=True)
        return plan

    def _rows(self, splits: Mapping[str, Split], task: Task | None, model: VisionLanguageModel | None) -> list[Finding]:
        """All findings in the rows."""
        config = self.config
        size = model.image_encoder.image_size if model else config.model.image_encoder.image_size or _USUAL_SIZE
        audit = RowAudit(splits, config.data, config.audit, size, Encode.of(task) if task else None)
        with _progress() as progress:
            audit.images(partial(progress.advance, progress.add_task("images", total=audit.rows)))
        text = model.text_encoder if model else None
        findings = list(audit.findings(text.tokenizer if text else None, text.max_length if text else 0))
        for name, fact in audit.facts.items():
            _say(name, fact)
        self._try(audit.bad_rows.check)
        return findings

    def _subset(
        self, splits: dict[str, Split], data: VisionLanguageData, model: VisionLanguageModel, task: Task
    ) -> VisionLanguageData:
        """With as many training rows as `data.subset` chooses: which ones hardly changes what a step takes."""
        chosen = self._try(build.drawn_subset, self.config, splits)
        if chosen is None or chosen is splits:
            return data
        method = self.config.data.subset.method or "random"
        _say("subset", f"{len(chosen['train']):,} of {len(splits['train']):,} training rows, by {method}")
        return self._try(build.build_data, self.config, chosen, model, task) or data

    def _step(
        self,
        data: VisionLanguageData,
        model: VisionLanguageModel,
        task: Task,
        plan: TuningPlan,
        device: torch.device,
    ) -> None:
        """Reports the number, time and memory of optimizer steps on one device."""
        config, devices, sharded = self.config, self.devices, self.sharded
        share = -(-config.data.batch_size // devices)
        micro = config.data.micro_batch_size
        batch = longest_rows(data, min(share, 2 * micro if micro else share))
        if not len(batch):
            return
        module = build.build_module(config, model, task, plan, self.distillation)
        module.micro_batch_size, module.micro_batch_tokens = micro, config.data.micro_batch_tokens
        evaluated = longest_rows(data, config.data.batch_size if len(data.rows) > 1 else 1)
        apart = build.encoders_apart(config)
        cost = self._try(try_steps, module, batch, evaluated, device, config.trainer.precision, apart)
        if cost is not None:
            planned = f"{data.plan.total:,} of {config.data.batch_size} rows, in {data.plan.epochs} epochs"
            taken = f"{len(batch)} rows take {cost.seconds:.2f} s ({device}, {config.trainer.precision})"
            whole = clock.in_words(cost.seconds * share / len(batch) * data.plan.total)
            pays = " where that pays" if config.cache.keep == "auto" else ""
            once = f"\nwhat frozen layers compute is kept{pays} (cache={config.cache.keep}); epochs then take less"
            kept = config.cache.keep != "never" and not sharded and plan.has_frozen_layers
            _say("steps", f"{planned}; {taken}, all about {whole}" + once * kept)
            said = self._memory(cost, data, on_cpu=device.type == "cpu")
            parted = f"\ntrainer.strategy=fsdp shards weights, gradients and optimizer over the {devices} devices"
            _say("memory", said + parted * sharded)

    def _memory(self, cost: StepCost, data: VisionLanguageData, on_cpu: bool) -> str:
        """What training adds to the memory in use before it starts."""
        average = 0 if self.config.callbacks.ema.decay is None else cost.gradients
        images = sum(rows.images.bytes for rows in data.datasets.values())
        parts = {"gradients": cost.gradients, "optimizer": cost.optimizer}
        parts |= {} if on_cpu else {"weights": cost.weights}
        parts["activations and workspace"] = max(0, cost.grown - sum(parts.values()))
        parts |= {"average of the weights": average} if average else {}
        parts |= {"cached images": images} if on_cpu and images else {}
        said = f"about {_mib(sum(parts.values()))} more than before training: "
        said += ", ".join(f"{name} {_mib(size)}" for name, size in parts.items())
        if on_cpu:
            return f"{said}; the weights, {_mib(cost.weights)}, are already loaded"
        return f"{said}; cached images take {_mib(images)} of main memory"


def _tell(findings: list[Finding], shown: int | None) -> None:
    """Prints some findings of each kind."""
    for kind, meaning in KINDS.items():
        found = [finding for finding in findings if finding.kind == kind]
        if not found:
            continue
        print(f"{kind}: {len(found):,} row{'s' * (len(found) > 1)} {meaning}")
        for finding in found[:shown]:
            print(f"    {finding}")
        if shown is not None and len(found) > shown:
            print(f"    and {len(found) - shown:,} more (audit.shown=null prints all, out=FILE writes them)")
        print()


def _progress() -> Progress:
    """A bar on stderr, which a notebook would show as a line for each of its states."""
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=console.is_jupyter)


def _say(name: str, text: str) -> None:
    lines = [f"{'':<10}{line}" for line in text.splitlines()]
    beside = f"{name:<10}{lines[0].lstrip()}" if len(name) < 10 else f"{name}\n{lines[0]}"
    print("\n".join([beside, *lines[1:]]) + "\n", flush=True)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
