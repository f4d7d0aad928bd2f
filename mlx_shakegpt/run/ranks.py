"""Opens one run on several ranks: rank 0 has its folder and decides, the others agree or refuse.

Whatever one rank cannot do ends all of them, before anything is written, with rank 0 saying why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..files import sha256
from ..runtime import Runtime, free_bytes, versions
from ..runtime.ranks import Ranks, SharedError
from ..settings.config import ModelConfig, Passage, TrainConfig
from ..text.corpus import Corpus
from ..training import StepReport, Trainer
from .evaluated_trainer import trainer_of
from .opening import Tell, begin, checked_plan, open_run
from .plan import RunPlan, must_fit
from .session import Run
from .texts import Progress, read_corpus

_OWN = ("data", "init", "config")  # what may be called otherwise on another machine


class Member:
    """A later rank's part in a run, without a folder."""

    def __init__(self, path: Path, trainer: Trainer) -> None:
        self.path, self.trainer, self.id = path, trainer, ""

    def train(self, every: int = 0, tell: Tell = lambda line: None) -> Iterator[StepReport]:
        """Trains; rank 0 writes logs and checkpoints, and has something to tell."""
        return self.trainer.run()

    def close(self) -> None:
        """There is nothing to release."""


def open_together(
    runtime: Runtime,
    settings: Mapping[str, Any],
    resume: bool,
    tell: Tell,
    progress: Progress | None,
    ranks: Ranks,
) -> Run | Member:
    """The run to follow on this rank; `open_run` for one that is alone.

    Raises SharedError for what every rank hears of, and on the rank that cannot do what was asked
    ValueError or OSError as `open_run`.
    """
    if ranks.size == 1:
        return open_run(runtime, settings, resume, tell, progress)
    if ranks.rank:
        return _member(runtime, settings, resume, ranks)

    try:
        plan = checked_plan(runtime, settings, resume, tell, progress, ranks.size)
        run = Run(plan, ranks)
        _must_be_alike(_exchange(ranks, _head(settings, resume) | plan.to_json()))
        _exchange(ranks, None)  # the others can do it
        begin(run, runtime, tell)
    except SharedError:
        raise
    except (ValueError, OSError) as error:
        ranks.gather({"problem": str(error)})
        raise
    _exchange(ranks, None)  # the folder is there, or its checkpoint was read
    run.trainer.start_together()
    return run


def _member(runtime: Runtime, settings: Mapping[str, Any], resume: bool, ranks: Ranks) -> Member:
    free = free_bytes()  # before rank 0, maybe on this machine, takes its part
    heads = _exchange(ranks, _head(settings, resume))
    _must_be_alike(heads)
    plan, trainer, problem = heads[0], None, None
    try:
        corpus = _same_text(settings, plan)
        model = ModelConfig.from_json(plan["model"])
        config = TrainConfig.from_json(plan["train"])
        own = RunPlan(Path(plan["path"]), "", "", model, config, corpus)
        must_fit(own, runtime, ranks.size, free)
        trainer = trainer_of(model, config, corpus, None, ranks)
    except (ValueError, OSError) as error:
        problem = str(error)
    _exchange(ranks, None, problem)
    assert trainer is not None
    _exchange(ranks, None)
    trainer.start_together()
    return Member(Path(plan["path"]), trainer)


def _same_text(settings: Mapping[str, Any], plan: Mapping[str, Any]) -> Corpus:
    """This machine's copy of the text. Raises ValueError where it has another."""
    description, data = plan["corpus"], settings.get("data")
    passage = Passage(description["first_line"], description["tokens"])
    if plan["texts"]:  # rank 0 has put them together
        data, passage = None if plan["rehearsed"] else data, Passage()
    corpus = read_corpus(data or description["path"], passage, None)
    if corpus.sha256 != description["sha256"]:
        raise ValueError(
            f"its text {corpus.name} has sha256 {corpus.sha256[:12]}…, rank 0's has "
            f"{description['sha256'][:12]}…; copy the text to every machine"
        )
    return corpus


def _head(settings: Mapping[str, Any], resume: bool) -> dict[str, Any]:
    """What has to be the same on all ranks."""
    package = Path(__file__).parent.parent
    code = "".join(sha256(file) for file in sorted(package.rglob("*.py")))
    common = {name: value for name, value in settings.items() if name not in _OWN}
    return {
        "versions": versions() | {"the program's files": sha256(code.encode())[:12]},
        "settings": common | {"resume": resume},
    }


def _must_be_alike(heads: list[dict[str, Any]]) -> None:
    """Raises SharedError, on every rank alike, where one has other versions or settings."""
    first = heads[0]
    for rank, head in enumerate(heads):
        for kind, way in (
            ("versions", "install the same on every machine"),
            ("settings", "start every rank with the same command"),
        ):
            for name in sorted(first[kind].keys() | head[kind].keys()):
                mine, its = first[kind].get(name), head[kind].get(name)
                if mine != its:
                    raise SharedError(f"rank {rank} has {name} {its}, rank 0 has {mine}; {way}")


def _exchange(ranks: Ranks, content: Any, problem: str | None = None) -> list[Any]:
    """What every rank gives. Raises SharedError where one has a problem instead."""
    answers = ranks.gather({"content": content, "problem": problem})
    for rank, answer in enumerate(answers):
        if answer["problem"] is not None:
            raise SharedError(f"rank {rank}: {answer['problem']}")
    return [answer["content"] for answer in answers]
