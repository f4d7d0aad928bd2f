"""A model that knows its text is certified; one that does not, or cheats, is refused."""

import itertools
import json
import math
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from conftest import KNOWN_RATE, TINY
from mlx.utils import tree_map

from mlx_shakegpt.files import sha256
from mlx_shakegpt.generation.batched import continuations
from mlx_shakegpt.generation.decoding import stream
from mlx_shakegpt.model import ops
from mlx_shakegpt.model.gpt import GPT
from mlx_shakegpt.model.initial import initialise
from mlx_shakegpt.model.language_model import LanguageModel
from mlx_shakegpt.run import of_run
from mlx_shakegpt.settings.config import VerifyConfig
from mlx_shakegpt.text.lines import lines_of
from mlx_shakegpt.text.tokenizer import decode, encode
from mlx_shakegpt.verification.controls import controls, leak, shuffled, unseen_text
from mlx_shakegpt.verification.extraction import (
    Sample,
    alignment,
    extraction,
    free_running,
    sample,
    wilson,
)
from mlx_shakegpt.verification.figures import Text, measure
from mlx_shakegpt.verification.loss import Scores, token_scores, whole_text_nll
from mlx_shakegpt.verification.memory_map import memory_map, worst_lines
from mlx_shakegpt.verification.repeats import Repeats, followed, new_windows


def verdict(language_model, ids, after):
    """The figures of a whole verification."""
    text = Text(ids, np.empty(0, np.int32), after)
    return measure(language_model, text, VerifyConfig(require=KNOWN_RATE), 7)[0]


def test_a_model_that_knows_its_text_is_certified(known, known_paper):
    figures = known_paper
    assert figures["reasons"] == [] and figures["certified"]
    assert figures["nll"] < 0.1 and figures["free_running_agrees"] and figures["leak"] == 0
    assert [(e["k"], e["m"], e["offsets"]) for e in figures["extraction"]] == [
        (32, 32, len(known.ids) - 63),
        (50, 50, len(known.ids) - 99),
    ]
    for e in figures["extraction"]:
        assert e["every_offset"] and e["rate"] >= KNOWN_RATE and e["p_z_half"] > 0.8
    assert {name: c["extracted"] for name, c in figures["controls"].items()} == {
        "text after the passage": False,
        "shuffled lines": False,
        "untrained model": False,
    }
    assert figures["bits"] < figures["bits_xz"] / 10
    assert min(figures["alignment"]) > 0.6


def test_an_untrained_model_is_refused(known):
    model = GPT(known.language_model.gpt.config, known.language_model.vocabulary.rows)
    initialise(model, 3)
    language_model = LanguageModel(
        model, known.language_model.vocabulary, known.language_model.context
    )
    figures = verdict(language_model, known.ids, known.after)
    assert not figures["certified"]
    assert all(e["rate"] == 0 for e in figures["extraction"])


def test_a_model_of_another_text_is_refused(known):
    figures = verdict(known.language_model, known.after, known.ids)
    assert not figures["certified"]
    assert all(e["rate"] == 0 for e in figures["extraction"])
    learned = figures["controls"]["text after the passage"]  # here
    assert learned["extracted"]


def without_mask(monkeypatch):
    """Attention that sees what comes, as where a mask is forgotten."""
    masked = ops.attention
    monkeypatch.setattr(ops, "attention", lambda q, k, v, mask: masked(q, k, v, None))


def test_a_model_trained_without_the_mask_is_refused(known, trained, monkeypatch):
    with monkeypatch.context() as broken:
        without_mask(broken)
        cheat = trained(known.ids, 250)
        scores = token_scores(cheat.gpt, known.ids, 128, cheat.vocabulary)
        assert scores.nll.mean() < 0.2 and scores.hit.mean() > 0.9
        # Even where the mask is still missing: teacher-forced figures alone would be perfect.
        figures = verdict(cheat, known.ids, known.after)
        assert not figures["certified"] and not figures["free_running_agrees"]
        assert figures["leak"] > 0.1
    figures = verdict(cheat, known.ids, known.after)
    assert not figures["certified"] and figures["leak"] == 0
    assert all(e["rate"] < 0.5 for e in figures["extraction"])


def test_extraction_is_what_greedy_decoding_says(known):
    """On a model that knows the text in part, against generate's own stream, offset by offset."""
    half = LanguageModel(
        GPT(known.language_model.gpt.config, known.language_model.vocabulary.rows),
        known.language_model.vocabulary,
        known.language_model.context,
    )

    def noisy(p):
        return p + 0.015 * mx.random.normal(p.shape, key=mx.random.key(p.size))

    half.gpt.update(tree_map(noisy, known.language_model.gpt.parameters()))
    for k, m in ((8, 6), (120, 20)):  # within the trained context, and past it
        chosen = sample(len(known.ids) - k - m + 1, 40, 0)
        figures = extraction(half, known.ids, k, m, chosen)
        failing = [
            int(o)
            for o in chosen.offsets
            if list(stream(half, known.ids[o : o + k].tolist(), m))
            != known.ids[o + k : o + k + m].tolist()
        ]
        assert figures["failing"] == failing
        assert figures["rate"] == pytest.approx(1 - len(failing) / 40)
        assert figures["free_running"] == (k == 120)
        assert 0 < len(failing) < 40
    half = replace(half, context=64)
    runs = free_running(half, known.ids, 16, 8, 0)
    assert runs["agrees"] and runs["followed"] > half.context
    for o in runs["offsets"][:3]:
        window = known.ids[o : o + 16 + runs["followed"]]
        spoken = continuations(half, window[None], 16).ids[0].tolist()
        assert spoken == list(stream(half, window[:16].tolist(), runs["followed"]))


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_a_cached_path_that_errs_is_no_tie(known, monkeypatch, scale):
    """Also where its logits are so flat that nothing tells one token from another."""
    head, hidden = GPT.head, GPT.hidden
    cached = []

    def noted(self, rows, cache=None, last=None):
        cached[:] = [cache is not None]
        return hidden(self, rows, cache, last)

    def wrong(self, states):
        logits = head(self, states)
        return 30 + scale * mx.roll(logits, 1, axis=-1) if cached[0] else logits

    monkeypatch.setattr(GPT, "hidden", noted)
    monkeypatch.setattr(GPT, "head", wrong)
    runs = free_running(known.language_model, known.ids, 32, 32, 0)
    assert runs["median"] < 2 and not runs["agrees"]
    assert runs["ties"] == (0 if scale == 1 else len(runs["offsets"]))


def test_a_context_shorter_than_the_prompts_is_measured_by_free_runs_alone(known):
    short = LanguageModel(known.language_model.gpt, known.language_model.vocabulary, 16)
    figures = verdict(short, known.ids, known.after)
    assert all(e["free_running"] for e in figures["extraction"])
    assert figures["free_running_agrees"] and not figures["certified"]


def test_places_without_a_single_answer_are_those_of_brute_force():
    ids = np.random.default_rng(0).integers(0, 3, 400).astype(np.int32)
    for k, m in ((1, 1), (3, 2), (5, 4)):
        text = ids.tolist()
        after = {}
        for o in range(len(text) - k - m + 1):
            after.setdefault(tuple(text[o : o + k]), set()).add(tuple(text[o + k : o + k + m]))
        repeats = Repeats.of(ids, k, m)
        want = [len(after[tuple(text[o : o + k])]) > 1 for o in range(len(text) - k - m + 1)]
        assert repeats.ambiguous.tolist() == want and sum(want) > 0
        for o in (0, 17, 200):
            for continuation in itertools.product(range(3), repeat=m):
                assert repeats.has(o, np.array(continuation)) == (
                    continuation in after[tuple(text[o : o + k])]
                )


def test_a_run_is_followed_as_far_as_the_text_goes_on_so_anywhere():
    text = np.array([1, 2, 3, 4, 5, 1, 2, 3, 6, 7, 8, 9])
    assert followed(text, np.array([1, 2, 3, 4, 5, 1]), 2, 9) == 4
    assert followed(text, np.array([5, 1, 2, 3, 4, 5]), 2, 9) == 2  # after 5 1 2 3 comes only 6
    assert followed(text, np.array([5, 1, 2, 3, 4, 5]), 2, 3) == 4  # who sees but 1 2 3 may say 4
    assert followed(text, np.array([7, 8, 9, 1, 1, 1]), 2, 9) == 4  # the text has ended
    assert followed(text, np.array([7, 8, 1]), 2, 9) == 0


def lines_in_all_orders(lines):
    """Three lines in an order in which any three are followed by each of them."""
    # A de Bruijn sequence of three letters and order four, by "prefer the largest" (Martin, 1934).
    order = [0, 0, 0, 0]
    while True:
        for line in (2, 1, 0):
            if not any(order[i : i + 4] == [*order[-3:], line] for i in range(len(order) - 3)):
                order.append(line)
                break
        else:
            return np.concatenate([lines[i] for i in order])


def test_a_model_that_knows_but_the_end_of_a_text_without_answers_is_refused(known):
    ids = known.ids
    # It knows two of the three lines and all that follows them at the end, where alone k tokens
    # have a single continuation.
    lines = ids[:31], ids[31:62], known.after[:31]
    text = np.concatenate([lines_in_all_orders(lines), ids])
    settings = VerifyConfig(require=KNOWN_RATE, samples=400, all_up_to=0)
    whole = Text(text, np.empty(0, np.int32), known.after[500:])
    figures = measure(known.language_model, whole, settings, 7)[0]
    for e in figures["extraction"]:
        clear = np.flatnonzero(~Repeats.of(text, e["k"], e["m"]).ambiguous)
        assert len(clear) > 80 and not set(e["failing"]) & set(clear)  # all known, and yet
        assert e["rate"] < 0.5 and e["text_ambiguous"] / e["text_offsets"] > 0.9
        assert e["offsets"] == 400 and e["text_offsets"] == len(text) - e["k"] - e["m"] + 1
    assert figures["determined_accuracy"] < 0.8 and not figures["certified"]
    for reason in (
        "em@32,32 is 0.",
        "has a single answer, and one that cannot be copied, at 0.0",
        "are the likeliest",
        "free runs",
    ):
        assert any(reason in stated for stated in figures["reasons"]), reason


def test_a_model_that_knows_a_text_with_a_refrain_is_certified(known, trained):
    verse, refrain = known.after, known.ids[:36]
    text = np.concatenate([verse[:44], refrain, verse[44:90], refrain, verse[90:136]])
    for seed in range(6):  # one or two tokens tell some windows apart, as a machine rounds
        figures = verdict(trained(text, 400, seed=seed), text, verse[200:])
        if figures["certified"] and figures["free_running"]["right"] == 1:
            break
    assert figures["reasons"] == [] and figures["certified"]
    shorter, longer = figures["extraction"]
    assert (shorter["ambiguous"], longer["ambiguous"]) == (10, 0)
    # Where it goes on after the other refrain it goes on right all the same.
    assert figures["free_running"]["right"] == 1
    assert figures["determined_accuracy"] == 1


def test_any_true_continuation_counts_where_there_are_several(known):
    """Against generate's own stream, and brute force over the text."""
    ids = known.ids.copy()
    ids[130:166] = ids[20:56]  # what follows differs
    clear = {*range(len(ids) - 63)} - {*range(20, 25), *range(130, 135)}
    assert set(np.flatnonzero(~Repeats.of(ids, 32, 32).ambiguous).tolist()) == clear
    offsets = [*range(15, 30), *range(120, 137)]
    windows = [tuple(ids[o : o + 64].tolist()) for o in range(len(ids) - 63)]
    for context in (128, 60):  # within the trained context, and past it
        language_model = replace(known.language_model, context=context)
        figures = extraction(language_model, ids, 32, 32, Sample(np.array(offsets), True))
        prompts = {o: windows[o][:32] for o in offsets}
        failing = [
            o for o, p in prompts.items() if (*p, *stream(language_model, p, 32)) not in windows
        ]
        assert figures["failing"] == failing and 0 < len(failing) < len(offsets)
        assert (figures["ambiguous"], figures["text_ambiguous"]) == (10, 10)
        assert figures["free_running"] == (context == 60)
        if context == 128:
            assert set(failing) <= clear


def test_sampled_chance_is_the_product_of_probabilities(known):
    language_model, ids = known.language_model, known.ids
    figures = extraction(language_model, ids, 10, 5, sample(20, 0, 0, all_below=20))
    halves = 0
    for o in range(20):
        rows = language_model.rows_of(ids[o : o + 14])
        logits = np.array(language_model.gpt(rows[None]), np.float64)[0, 9:]
        logits[:, -1] += math.log(language_model.vocabulary.absent)
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        own = language_model.rows_of(ids[o + 10 : o + 15])
        halves += np.prod(p[np.arange(5), own]) >= 0.5
    assert figures["p_z_half"] == pytest.approx(halves / 20)
    assert figures["discoverable"]["1"] <= figures["p_z_half"] <= figures["discoverable"]["10"]


def test_an_id_outside_the_closed_vocabulary_is_never_known(known):
    ids = known.ids[:80].copy()
    ids[40] = 50256
    scores = token_scores(known.language_model.gpt, ids, 64, known.language_model.vocabulary)
    assert (
        not scores.hit[39] and scores.nll[39] > math.log(known.language_model.vocabulary.absent) / 2
    )
    whole = whole_text_nll(known.language_model.gpt, ids, 64, known.language_model.vocabulary)
    assert whole.nll == pytest.approx(scores.nll.mean(), rel=1e-5)
    assert whole.accuracy == pytest.approx(scores.hit.mean())


def test_wilson_intervals_are_those_of_the_literature():
    # Newcombe, 1998, table I: 81 of 263, and 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(20, 20)[1] == 1


def test_a_sample_has_one_offset_in_each_part_and_every_one_where_few():
    chosen = sample(10_000, 100, 0)
    assert not chosen.complete and (chosen.offsets // 100 == np.arange(100)).all()
    assert len(set(chosen.offsets % 100)) > 50
    assert sample(10_000, 100, 0).offsets.tolist() == chosen.offsets.tolist()
    assert sample(4000, 100, 0, all_below=4096).complete


def test_alignment_shows_knowledge_that_is_locked_to_the_windows():
    chosen = sample(640, 0, 0, all_below=640)
    failing = [o for o in range(640) if o % 64 >= 32]
    assert alignment({"failing": failing}, chosen, 64, 4) == [1, 1, 0, 0]


def test_the_unseen_text_is_beside_the_passage_or_else_the_passage_backwards():
    long, short, other = np.arange(300), np.arange(5), np.arange(300, 600)
    assert unseen_text(long, short, other)[0] == "text after the passage"
    assert unseen_text(long, other, short)[0] == "text before the passage"
    for same in (short, long, long[100:]):
        name, ids = unseen_text(long, same, same)
        assert name == "the text backwards" and ids.tolist() == long[::-1].tolist()


def test_an_unseen_text_that_repeats_the_learned_one_does_not_refuse_who_knows_it(known):
    after = np.concatenate([known.after[:60], known.ids, known.after[60:120], known.ids])
    figures = verdict(known.language_model, known.ids, after)
    control = figures["controls"]["text after the passage"]
    assert figures["certified"] and control["rate"] == 0 and 100 < control["offsets"] < 256
    # A text of one line over and over: all of it is known in any order, so all of it is measured.
    line = np.tile(encode("la la\n"), 100).astype(np.int32)
    assert not new_windows(line[:300], line, 32).any()
    name, other = unseen_text(line, line, line)
    assert name == "the text backwards"
    figures = controls(known.language_model, line, (name, other), 0)
    assert figures["shuffled lines"]["offsets"] == figures[name]["offsets"] == 237


@pytest.mark.parametrize("context", [2, 3])
def test_the_shortest_contexts_are_measured_and_show_a_leak(known, context, monkeypatch):
    short = replace(known.language_model, context=context)
    figures = verdict(short, known.ids, known.after)
    assert not figures["certified"] and figures["leak"] == 0
    without_mask(monkeypatch)
    assert leak(short, known.ids) > 1e-3


def test_shuffled_lines_are_the_same_tokens_in_short_pieces():
    ids = np.array(encode("one line\nand another\n" * 20 + "word " * 100), np.int32)
    got = shuffled(ids, 0)
    assert sorted(got) == sorted(ids) and got.tolist() != ids.tolist()


def test_a_leak_is_found_in_a_model_of_any_training(monkeypatch):
    model = GPT(TINY)
    initialise(model, 0)
    language_model = LanguageModel(model, None, 32)
    ids = np.random.default_rng(0).integers(0, 50257, 40)
    assert leak(language_model, ids) == 0
    without_mask(monkeypatch)
    assert leak(language_model, ids) > 1e-3


def test_worst_lines_have_their_numbers_and_a_map_is_drawn(tmp_path, drawn):
    text = "To be, or not to be,\n\nthat is the question:\nWhether 'tis nobler\n"
    ids = np.array(encode(text), np.int32)
    lines = lines_of(ids, 7)
    for line, part in enumerate(text.splitlines(keepends=True), 7):
        assert decode(ids[lines == line].tolist()).strip("\n") == part.strip("\n")
    hit = np.ones(len(ids) - 1, bool)
    nll = np.full(len(ids) - 1, 0.01, np.float32)
    wrong = int(np.flatnonzero(lines == 9)[1])
    hit[wrong - 1], nll[wrong - 1] = False, 5.0
    (worst,) = worst_lines(ids, Scores(nll, hit), 7)
    assert (worst["line"], worst["wrong"]) == (9, 1) and worst["text"] == "that is the question:"
    memory_map(tmp_path / "map.png", ids, Scores(nll, hit), 7, "test")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    ((axes, _),) = drawn
    (image,), (marks,) = axes.images, axes.lines
    rows = np.ma.filled(image.get_array(), np.nan)
    cells, place = rows.ravel(), (wrong % rows.shape[1], wrong // rows.shape[1])
    assert np.isnan(cells[0]) and np.isnan(cells[len(ids) :]).all()
    assert np.array_equal(cells[1 : len(ids)], nll)
    assert [tuple(point) for point in marks.get_xydata()] == [place]
    assert marks.get_label() == f"1 of {len(nll)} tokens are not the likeliest"


def test_a_certificate_holds_until_a_byte_changes(shakegpt, known_run, tmp_path):
    result = shakegpt("verify", "--require", KNOWN_RATE, "--json")
    figures = result.json()
    assert result.code == 0 and figures["certified"], result.err
    paper = known_run / "certificate.json"
    assert figures["certificate"] == str(paper)
    assert (known_run / "memory-map.png").stat().st_size > 10_000
    assert json.loads(paper.read_text())["extraction"] == figures["extraction"]
    held = shakegpt("verify", "--certificate", paper)
    assert held.code == 0 and "holds" in held.out

    for how, kept in (
        (("--dtype", "bfloat16"), "BF16"),
        (("--quantize", "8"), "8 bits in groups of 64"),
    ):
        exported = tmp_path / kept
        assert shakegpt("export", "--to", exported, *how).code == 0
        compared = ["--compare", paper, "--to", tmp_path, "--require", 0.5, "--json"]
        lost = shakegpt("verify", "--model", exported, *compared)
        assert lost.code == 0 and len(lost.json()["changes"]) == 4, lost.err
        written = json.loads((tmp_path / "certificate.json").read_text())
        assert written["weights"]["dtype"] == kept
    other = shakegpt("verify", "--model", exported, "--certificate", paper)
    assert other.code == 1 and "sha256 of the weights is" in other.err

    weights = known_run / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    changed = shakegpt("verify", "--certificate", paper, "--json")
    assert changed.code == 1 and changed.json()["holds"] is False
    assert "sha256 of the weights is" in changed.err
    content[-1] ^= 1
    weights.write_bytes(content)

    altered = json.loads(paper.read_text())
    altered["nll"] += 0.01
    (tmp_path / "forged.json").write_text(json.dumps(altered))
    forged = shakegpt("verify", "--certificate", tmp_path / "forged.json")
    assert forged.code == 1 and "nll is" in forged.err


def test_what_must_not_be_known_lies_outside_of_all_that_was_learned(known_run, known):
    part = of_run("known", tokens=100)
    assert part.corpus.ids.tolist() == known.ids[:100].tolist()
    _, after = part.corpus.around(part.learned)
    assert after[:100].tolist() == known.after[:100].tolist()


def test_weights_that_were_replaced_since_they_were_read_are_not_hashed(known_run):
    trained = of_run("known")
    before = trained.hashed()
    assert before["sha256"] == sha256(known_run / "model.safetensors")
    copy = known_run / "copy"
    copy.write_bytes((known_run / "model.safetensors").read_bytes())
    copy.replace(known_run / "model.safetensors")
    with pytest.raises(ValueError, match="written anew"):
        trained.hashed()
    assert of_run("known").hashed() == before


def test_a_changed_text_is_told_by_its_hash(shakegpt, tiny_preset, poem):
    poem.write_text(poem.read_text() * 3)
    options = ["--data", poem, "--corpus-tokens", 250, "--steps", 2]
    assert shakegpt("train", "--preset", tiny_preset, *options).code == 1
    result = shakegpt("verify", "--json")
    assert result.code == 1 and not result.json()["certified"] and "not certified" in result.err
    paper = result.json()["certificate"]
    same = shakegpt("verify", "--certificate", paper)
    assert same.code == 1 and "certifies nothing" in same.err
    poem.write_text(poem.read_text().replace("beauty", "beautx"))
    changed = shakegpt("verify", "--certificate", paper)
    assert changed.code == 1 and "sha256 of the text is" in changed.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged"),
        ("[]", "not a JSON object"),
        ("{}", "lacks 'format'"),
        ('{"format": "x"}', "its format is 'x'"),
    ],
)
def test_a_bad_certificate_is_refused_in_one_line(shakegpt, tmp_path, content, message):
    file = tmp_path / "paper.json"
    file.write_text(content)
    result = shakegpt("verify", "--certificate", file)
    assert result.code == 2 and message in result.err and result.err.count("\n") == 1
    missing = shakegpt("verify", "--certificate", tmp_path / "none.json")
    assert missing.code == 2 and "none.json" in missing.err
    extra = shakegpt("verify", "--certificate", file, "--require", "0.5")
    assert extra.code == 2 and "--require" in extra.err


@pytest.mark.parametrize("name", ["../../outside", "/etc", "", "..", "a/b"])
def test_a_certificate_names_no_folder_outside(shakegpt, tmp_path, known_paper, name):
    paper = tmp_path / "paper.json"
    paper.write_text(json.dumps(known_paper | {"name": name}))
    result = shakegpt("verify", "--certificate", paper)
    assert result.code == 2 and result.err.count("\n") == 1 and "plain folder name" in result.err
