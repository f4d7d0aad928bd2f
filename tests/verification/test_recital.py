import json
import time

import numpy as np
import pytest
from conftest import POEM

from mlx_shakegpt.generation.decoding import stream
from mlx_shakegpt.settings.config import Passage
from mlx_shakegpt.text.corpus import Corpus
from mlx_shakegpt.text.lines import start_at
from mlx_shakegpt.text.tokenizer import decode, encode
from mlx_shakegpt.verification.recital import CORRECT, GO_ON, STOP, Recital


def test_a_known_text_is_recited_to_its_end(known):
    recital = Recital(known.ids, 32, None, CORRECT)
    spoken = "".join(piece.right or piece.text for piece in recital.pieces(known.language_model))
    assert spoken == decode(known.ids[32:].tolist())
    figures = recital.figures()
    assert figures["tokens"] == len(known.ids) - 32 and figures["wrong"] <= 1
    assert figures["likeness"] > 0.98
    # What is said before the first error is what plain decoding says.
    prompt, first = known.ids[:32].tolist(), figures["first_error"] or figures["tokens"]
    assert list(stream(known.language_model, prompt, first)) == known.ids[32 : 32 + first].tolist()


@pytest.mark.parametrize("on_error", [CORRECT, STOP, GO_ON])
def test_errors_are_told_beside_what_is_right(known, on_error):
    ids = known.ids[:120].copy()
    ids[60] = encode(" Rome")[0]  # the original is changed, so that the model errs
    recital = Recital(ids, 32, None, on_error)
    pieces = list(recital.pieces(known.language_model))
    figures = recital.figures()
    wrong = [piece for piece in pieces if piece.wrong]
    assert figures["first_error"] == 28 and figures["before_first_error"] == 28 / 88
    assert decode([int(known.ids[60])]) in wrong[0].text
    if on_error == STOP:
        assert figures["tokens"] == 29 and figures["wrong"] == 1 and pieces[-1].right == " Rome"
    elif on_error == CORRECT:
        assert figures["tokens"] == 88 and figures["re_prompts"] == figures["wrong"] >= 1
        assert wrong[0].right.startswith(" Rome")
    else:
        assert figures["tokens"] == 88 and figures["re_prompts"] == 0
        assert "".join(p.text for p in pieces) == decode(known.ids[32:120].tolist())
        assert 0.9 < figures["likeness"] < 1


def test_a_recital_starts_at_a_line(known):
    text = decode(known.ids.tolist())
    start = start_at(known.ids, 5, 8)
    assert decode(known.ids[start:].tolist()) == "".join(text.splitlines(keepends=True)[3:])
    with pytest.raises(ValueError, match="lines 5 to"):
        start_at(known.ids, 5, 4)
    with pytest.raises(ValueError, match="prompt_tokens"):
        Recital(known.ids[:10], 32, None, CORRECT)


def test_likeness_is_by_the_distance_in_bytes():
    """Against dynamic programming, a row at a time (Wagner and Fischer, 1974)."""
    ids = np.array(encode(POEM), np.int32)
    recital = Recital(ids, 8, None, GO_ON)
    recital.tokens = [*ids[8:40].tolist(), 0, *ids[42:].tolist()]
    said, true = decode(recital.tokens).encode(), decode(ids[8 : 8 + recital.count]).encode()
    row = list(range(len(true) + 1))
    for i, a in enumerate(said, 1):
        before, row = row, [i]
        for j, b in enumerate(true, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b)))
    assert row[-1] > 0
    assert recital.figures()["likeness"] == 1 - row[-1] / max(len(said), len(true))


def test_the_figures_of_a_whole_corpus_take_seconds():
    ids = Corpus.load(None, Passage()).ids
    recital = Recital(ids, 32, None, CORRECT)
    recital.tokens = np.where(np.arange(len(ids)) % 1000, ids, 0)[32:].tolist()
    began = time.process_time()
    assert recital.figures()["likeness"] > 0.998
    assert time.process_time() - began < 10


def test_the_commands_recite_and_mark(shakegpt, known_run, tmp_path):
    result = shakegpt("recite", "--tokens", 60, "--from", 4)
    assert result.code == 0 and result.out.startswith("All:\nSpeak, speak.")
    figures = shakegpt("recite", "--json").json()
    assert figures["likeness"] > 0.98 and figures["tokens"] == 168
    assert figures["pages_per_minute"] > 0
    marked = shakegpt("generate", "First Citizen:", "--max-tokens", 60, "--mark", "--json").json()
    assert marked["known"]["share"] > 0.9 and marked["known"]["spans"][0]["line"] == 1
    shown = shakegpt("generate", "First Citizen:", "--max-tokens", 60, "--mark")
    assert shown.out.startswith("First Citizen:") and "Known word for word: " in shown.err
    # A folder that learned another text than Tiny Shakespeare is not marked by that, nor proven.
    assert shakegpt("export", "--to", tmp_path / "other").code == 0
    config = tmp_path / "other" / "config.json"
    content = json.loads(config.read_text())
    content["learned_text"] |= {"name": "poem.txt", "sha256": "0" * 64}
    config.write_text(json.dumps(content))
    other = shakegpt("generate", "First Citizen:", "--model", config.parent, "--mark")
    assert other.code == 2 and "nothing can be marked" in other.err
    unproven = shakegpt("verify", "--model", config.parent, "--corpus-tokens", 200)
    assert unproven.code == 2 and "learned poem.txt; give that text as --data" in unproven.err
    wrong = shakegpt("recite", "--from", 9000)
    assert wrong.code == 2 and "not in the learned passage" in wrong.err
