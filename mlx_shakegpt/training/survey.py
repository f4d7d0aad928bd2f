"""All that a machine's owner can measure for others in some minutes, as one report.

What fails on a device is in the report with its error, and the rest goes on. Knows nothing of
terminals and files.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx

from ..runtime import Runtime, free_bytes
from ..runtime.machine import description, without_names
from ..runtime.stopwatch import product_speed
from ..settings.config import TrainConfig
from ..settings.presets import DEFAULT_RECIPE, preset, recipe
from ..text.corpus import Corpus
from ..text.vocabulary import Vocabulary
from . import cost, gradient_check, suspects, timing
from .trainer import Trainer

FORMAT = "mlx-shakegpt figures 1"
DTYPES = ("float32", "float16", "bfloat16")
SECTIONS = ("products", "gradients", "suspects", "steps")
SECONDS = 40.0  # that the steps at one precision may take; the other parts take less
SHORT = 0.1  # of it
# Presets, windows and tokens in each, the largest first: a step is timed with the first that fits.
SHAPES = (
    ("gpt2-124m", 32, 128), ("gpt2-124m", 16, 128), ("gpt2-124m", 16, 64), ("gpt2-124m", 4, 64),
    ("quick", 4, 128), ("quick", 1, 64),
)  # fmt: skip
STEPS = 3  # at least, of which the first two are not counted

Report = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One measurement: the section of the report that it belongs to, what it measures, and how."""

    section: str
    labels: dict[str, Any]
    measure: Callable[[], dict[str, Any]]


def survey(
    runtime: Runtime,
    tell: Callable[[str], None],
    keep: Callable[[Report], None],
    seconds: float,
) -> Report:
    """Measures this machine, in parts of at most about so many `seconds`.

    `keep` gets the report at the beginning and after each part, with `finished` once it is whole;
    `tell` what comes next.
    """
    report: Report = {"format": FORMAT, "finished": False, "seconds": 0.0}
    report |= {"machine": description(runtime), **{name: [] for name in SECTIONS}}
    keep(report)
    start = time.perf_counter()
    for part in _parts(runtime, report, seconds):
        tell(f"{part.section}: {', '.join(map(str, part.labels.values()))}")
        try:
            figures = part.measure()
        except Exception as error:  # whatever a device cannot do is what the report is to tell
            figures = {"error": f"{type(error).__name__}: {without_names(str(error))}"}
        report[part.section].append(part.labels | figures)
        report["seconds"] = round(time.perf_counter() - start, 1)
        gc.collect()  # models, which hold on to what holds on to them
        mx.clear_cache()
        keep(report)
    report["finished"] = True
    keep(report)
    return report


def _parts(runtime: Runtime, report: Report, seconds: float) -> Iterator[Part]:
    """The parts one by one, as the later ones depend on how fast the first ones were."""
    short = seconds * SHORT
    for dtype in DTYPES:
        work = partial(product_speed, getattr(mx, dtype), short / 2)
        yield Part("products", {"dtype": dtype}, work)
    for name, check in gradient_check.CHECKS.items():
        for dtype in DTYPES:
            work = partial(_checked, check, dtype, short)
            yield Part("gradients", {"of": name, "dtype": dtype}, work)
    yield Part("suspects", {"what": "launches"}, partial(suspects.launches, short / 2))
    for name in suspects.SUSPECTS:
        for dtype in DTYPES:
            if gflops := _speed(report, dtype):
                work = partial(suspects.timed, name, dtype, gflops, short)
                yield Part("suspects", {"what": name, "dtype": dtype}, work)
    yield from step_parts(report, runtime.device == "cpu", seconds)


def step_parts(report: Report, on_cpu: bool, seconds: float) -> Iterator[Part]:
    """Each shape at each precision once, where it fits; else that none does."""
    texts = {name: Corpus.load(None, preset(name).passage) for name in {s[0] for s in SHAPES}}
    done = set()
    for dtype, shapes in (
        *((dtype, SHAPES) for dtype in DTYPES),
        ("float32", SHAPES[1:2]),  # the shape of what others have published
        *((dtype, SHAPES[-2:-1]) for dtype in DTYPES),  # bound by launches on a GPU
    ):
        labels: dict[str, Any] = {"dtype": dtype}
        for shape in shapes:
            if fits(report, texts, dtype, on_cpu, seconds, shape):
                labels |= dict(zip(("preset", "batch_size", "context"), shape, strict=True))
                work = partial(_steps, texts[shape[0]], dtype, shape, seconds)
                break
        else:
            shape, work = shapes[-1], partial(_refused, seconds)
            labels["preset"] = shape[0]
        if (dtype, shape) not in done:
            done.add((dtype, shape))
            yield Part("steps", labels, work)


def _checked(check: Callable[[str], Any], dtype: str, limit: float) -> dict[str, Any]:
    return gradient_check.checked(check(dtype), dtype, limit)


def _speed(report: Report, dtype: str) -> float | None:
    """GFLOP/s of products at a precision; None where they failed."""
    return next((p.get("gflops") for p in report["products"] if p["dtype"] == dtype), None)


def _config(dtype: str, shape: tuple[str, int, int]) -> TrainConfig:
    """float16 is no precision to train at, as its gradients may vanish; it is timed as bfloat16's
    step with other weights."""
    name, batch_size, context = shape
    kept = "float32" if dtype == "float32" else "bfloat16"
    changes = {"batch_size": batch_size, "context": context, "short_context": 0}
    return recipe(DEFAULT_RECIPE, name, dtype=kept, **changes)


def fits(
    report: Report, texts: dict[str, Corpus], dtype: str, on_cpu: bool, seconds: float,
    shape: tuple[str, int, int],
) -> bool:  # fmt: skip
    """Whether some steps of a shape fit into time and memory, as far as can be said before."""
    model, config = preset(shape[0]).model, _config(dtype, shape)
    speed, full_speed = _speed(report, dtype), _speed(report, "float32")
    if not speed or not full_speed:
        return False
    rows = Vocabulary.of(texts[shape[0]].ids).rows
    products = cost.product_flops(model, config.tokens_per_step, config.context, rows) / speed
    update = cost.update_flops(model, config, on_cpu) / full_speed
    of_peak = cost.OF_PEAK["cpu" if on_cpu else "gpu"]
    memory = cost.training_memory(model, config, rows, on_cpu)
    return STEPS * (products + update) / of_peak / 1e9 < seconds and memory < 0.8 * free_bytes()


def _refused(seconds: float) -> dict[str, Any]:
    raise ValueError(f"{STEPS} steps take more than {seconds:g} s here, or more than its memory")


def _steps(text: Corpus, dtype: str, shape: tuple[str, int, int], seconds: float) -> dict[str, Any]:
    config = _config(dtype, shape)
    evaluate: Any = None  # nothing is evaluated
    trainer = Trainer(preset(shape[0]).model, config, text.ids, evaluate)
    trainer.model.set_dtype(getattr(mx, dtype))
    figures = timing.steps(trainer, seconds)
    figures["flops"] = timing.step_flops(trainer, config.context)
    return figures | {"generation": timing.generation_speed(trainer, text.ids[:16].tolist())}
