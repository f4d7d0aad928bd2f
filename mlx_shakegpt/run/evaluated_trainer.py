"""A trainer with the evaluation that decides when its run ends."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ..model.gpt import GPT
from ..model.language_model import LanguageModel
from ..runtime import setup
from ..runtime.ranks import Ranks
from ..settings.config import ModelConfig, TrainConfig
from ..text.corpus import Corpus
from ..training import Trainer
from ..verification.known import extracted
from ..verification.loss import Evaluation, whole_text_nll

ESTIMATED = 16_384  # tokens that tell how far a long text is from being known


def trainer_of(
    model: ModelConfig,
    config: TrainConfig,
    corpus: Corpus,
    start: LanguageModel | None,
    ranks: Ranks,
) -> Trainer:
    """A trainer that is evaluated by the whole text's loss, and where it is to stop when the text
    is known, by a sample of extractions too. Raises ValueError as Trainer does."""

    def evaluate(gpt: GPT, context: int) -> Evaluation:
        target, vocabulary = config.target_loss, trainer.vocabulary
        whole = partial(whole_text_nll, gpt, corpus.ids, context, vocabulary, target, ranks)
        if config.stop != "known":
            return whole()
        # The whole of a long text is only scored where all else says that it is known.
        result = whole(ESTIMATED)
        if result.nll >= target or context < config.context:
            return result
        alive = partial(ranks.tick, "while a sample is recited")
        mine = extracted(gpt, corpus.ids, context, vocabulary, trainer.state.step, alive)
        share, known = ranks.gather(mine)[0]  # machines of several kinds may round apart
        if known:
            if len(corpus.ids) > ESTIMATED:
                trainer.tell("A sample of the text is recited; scoring all of it.")
            result = whole()
        return replace(result, extracted=share, known=known and result.nll < target)

    setup().check_products(config.products)
    trainer = Trainer(model, config, corpus.ids, evaluate, start, ranks)
    return trainer
