"""What holds for every input, searched by hypothesis; where there is one, beside a plain search.

The search is the same each time; `pytest tests/test_properties.py --hypothesis-profile search` goes
elsewhere, and further.
"""

import json
import math
from contextlib import suppress
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlx_shakegpt.generation.lookup import LONGEST_MATCH, Lookup
from mlx_shakegpt.settings.config import ModelConfig, Passage, TrainConfig, VerifyConfig
from mlx_shakegpt.settings.fields import Checked
from mlx_shakegpt.settings.presets import DEFAULT_RECIPE, RECIPES
from mlx_shakegpt.settings.sampling import Sampling
from mlx_shakegpt.text.quotations import WORD, Source
from mlx_shakegpt.text.tokenizer import decode, decode_stream, encode
from mlx_shakegpt.text.vocabulary import Vocabulary
from mlx_shakegpt.training.windows import TokenLosses, Windows
from mlx_shakegpt.verification.extraction import wilson
from mlx_shakegpt.weights.safetensors import check_tensors, load_tensors

HARD = RECIPES[DEFAULT_RECIPE].hard
TEXT = st.text("abz 09.'é羅🌹👩\u200d\u0301\0\n\t")  # all of Unicode would take a second to set up
NAME = st.text("ab_é\0", max_size=3)


@st.composite
def windows(draw, hard):
    """Windows of a short text, with jitter, some share of them drawn by whatever losses."""
    n = draw(st.integers(3, 90))
    context = draw(st.integers(2, min(n - 1, 40)))
    losses = TokenLosses(n)
    values = draw(st.lists(st.sampled_from([0.0, 1e-9, 0.5, 8.0, 1e30]), min_size=1, max_size=9))
    losses.nll[:] = np.resize(values, n)
    batch, seed = draw(st.integers(1, 9)), draw(st.integers(0, 2**32 - 1))
    # Even ids, so that no id is the place where it stands.
    return Windows(2 * np.arange(n), batch, context, seed, True, draw(hard), losses)


def trained(windows, epoch):
    """How often an epoch trains each target but the first token, which is none."""
    counts = np.zeros(len(windows.ids), int)
    for start, count in windows.epoch_windows(epoch):
        assert 0 <= start < start + count < len(windows.ids) and count <= windows.context
        counts[start + 1 : start + 1 + count] += 1
    return counts[1:]


@given(windows(st.just(0.0)), st.integers(0, 1000))
def test_an_epoch_trains_each_target_once(windows, epoch):
    assert (trained(windows, epoch) == 1).all()


@given(windows(st.floats(0, HARD)))
def test_no_target_is_left_out_for_long_whatever_the_losses(windows):
    counts, epoch = trained(windows, 0), 0
    while not counts.all() and epoch < 149:
        epoch += 1
        counts = counts + trained(windows, epoch)
    assert counts.all(), np.flatnonzero(counts == 0) + 1


@given(windows(st.floats(0, 1)), st.integers(1, 4))
def test_batches_are_the_windows_of_the_epochs_one_after_the_other(windows, epochs):
    stream = np.concatenate([windows.epoch_windows(epoch) for epoch in range(epochs + 1)])
    last = sum(len(windows.epoch_windows(epoch)) for epoch in range(epochs))
    steps, size, before = windows.steps(epochs), windows.batch_size, 0.0
    assert (steps - 1) * size < last <= steps * size
    for step in range(len(stream) // size):
        batch = windows.batch(step)
        start, count = stream[step * size : (step + 1) * size].T
        assert (batch.starts == start).all() and (batch.weights.sum(1) == count).all()
        row, column = np.nonzero(batch.weights)
        assert (batch.inputs[row, column] == 2 * (start[row] + column)).all()
        assert (batch.targets[row, column] == 2 * (start[row] + column) + 2).all()
        assert before < batch.epoch <= epochs + 1
        assert (batch.epoch >= epochs) == ((step + 1) * size >= last)
        before = batch.epoch


# The first 256 ids are single bytes, so that characters come in parts, broken ones too.
@given(st.lists(st.integers(0, 50256) | st.integers(0, 255), max_size=60))
@example([])
def test_text_in_a_stream_is_the_text_of_all_ids(ids):
    assert "".join(decode_stream(ids)) == decode(ids)


@given(TEXT)
def test_text_comes_back_from_its_ids_in_whole_characters(text):
    assert "".join(decode_stream(encode(text))) == text


@given(st.integers(1, 60).flatmap(lambda total: st.tuples(st.just(total), _ids(total))))
def test_rows_of_ids_lead_back_to_them_and_absent_ids_share_one(case):
    total, ids = case
    vocabulary = Vocabulary.of(ids, total)
    assert (vocabulary.own[vocabulary.rows_of(ids)] == ids).all()
    absent = np.setdiff1d(np.arange(total), ids)
    assert vocabulary.absent == len(absent)
    assert vocabulary.rows == len(np.unique(vocabulary.table)) == len(set(ids)) + bool(len(absent))
    assert (vocabulary.rows_of(absent) == vocabulary.rows - 1).all()
    for wrong in (-1, total):
        with pytest.raises(ValueError, match=str(wrong)):
            vocabulary.rows_of(np.array([wrong]))


def _ids(total):
    return st.lists(st.integers(0, total - 1), min_size=1, max_size=80).map(np.array)


VALUES = {
    "int": st.integers(0, 40) | st.integers(0, 2**32 - 1),
    "float": st.floats(0, 1) | st.floats(0, allow_nan=False, allow_infinity=False),
    "bool": st.booleans(),
    "str": st.sampled_from(
        ["adamw", "muon", "float32", "bfloat16", "known", "text", "batch", "learned", "sinusoid"]
    ),
}
CLASSES = (ModelConfig, TrainConfig, Passage, VerifyConfig, Sampling)


def settings(kind):
    """Values for the fields of a configuration that pass each field's own check."""

    def values(field):
        check = field.metadata.get("check")
        return VALUES[field.type].filter(check[0]) if check else VALUES[field.type]

    own = {f.name: values(f) for f in fields(kind)}
    if kind is ModelConfig:  # which is wider than most numbers are
        own["n_embd"] = st.just(12)
        own["n_head"] = st.sampled_from([1, 2, 3, 4, 6, 12])
        own["n_positions"] = st.integers(1, 1024)
    if kind is TrainConfig:
        own["context"] = st.integers(2, 1024)
        own["short_context"] = st.sampled_from([0, 0, 2])
        own["jitter"] = own["zero_residual"] = st.just(True)
        own["optimizer"] = st.just("adamw")
        own["batch_size"] = st.integers(1, 500).map(lambda n: 2 * n)
    if kind is VerifyConfig:
        own["require"] = st.floats(0.06, 1)
    if kind is Sampling:
        own["temperature"] = st.just(0.0) | st.floats(1e-6, 1e6)
    return st.fixed_dictionaries(own)


@pytest.mark.parametrize("kind", CLASSES)
@given(st.data())
def test_every_configuration_comes_back_from_json(kind, data):
    config = kind(**data.draw(settings(kind)))
    assert kind.from_json(json.loads(json.dumps(config.to_json()))) == config


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | NAME,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAME, inner),
    max_leaves=5,
)


@given(st.sampled_from(CLASSES), st.data())
def test_any_json_is_a_configuration_or_a_value_error(kind, data):
    names = [f.name for f in fields(kind)]
    sound = kind(n_layer=1, n_head=1, n_embd=1) if kind is ModelConfig else kind()
    changed = data.draw(st.dictionaries(st.sampled_from(names) | NAME, JSON))
    content = data.draw(st.just(sound.to_json() | changed) | JSON)
    with suppress(ValueError):
        assert isinstance(kind.from_json(content), Checked)


ODD = st.sampled_from([0, 1, 2, 4, 8, 16, -1, 2**31, 2**32, 2**63, 1.0, 1e400, "0", True, None])
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F16", "U8", "BOOL", "F64", "X"]) | JSON,
        "shape": st.lists(ODD, max_size=3) | JSON,
        "data_offsets": st.lists(ODD, max_size=3) | JSON,
    },
)
SOUND = st.integers(0, 4).map(lambda n: {"dtype": "F32", "shape": [n], "data_offsets": [0, 4 * n]})
HEADER = st.dictionaries(st.sampled_from("ab") | NAME, SOUND | ENTRY | JSON, max_size=2)


def _file(header, data):
    return len(header).to_bytes(8, "little") + header + data


@given(
    st.binary(max_size=64)
    | st.builds(
        _file,
        (HEADER | JSON).map(lambda value: json.dumps(value).encode()),
        st.integers(0, 16).map(bytes),
    )
)
@example(_file(b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}', b"12"))
@example(_file(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,Infinity]}}', b""))
@example(_file(b'{"a":{"dtype":"U8","shape":[true],"data_offsets":["0",1]}}', b"1"))
def test_any_bytes_are_tensors_or_a_value_error(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "any.safetensors"
    file.write_bytes(content)
    with suppress(ValueError):
        header, tensors = check_tensors(file), load_tensors(file)
        shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
        assert shapes == {name: entry["shape"] for name, entry in header.items()}


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_bounds_hold_the_share_and_grow_with_it(case):
    hits, n = case
    low, high = wilson(hits, n)
    assert 0 <= low <= hits / n <= high <= 1 and low < high
    assert wilson(n - hits, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    if hits < n:
        more = wilson(hits + 1, n)
        assert more[0] > low and more[1] > high
    tenfold = wilson(10 * hits, 10 * n)
    assert tenfold[1] - tenfold[0] < high - low


@given(st.integers(1, 60), st.floats(0, 1))
def test_wilsons_bounds_cover_as_often_as_they_say(n, p):
    def covered(p):
        return sum(
            math.comb(n, hits) * p**hits * (1 - p) ** (n - hits)
            for hits, (low, high) in enumerate(bounds)
            if low <= p <= high
        )

    bounds = [wilson(hits, n) for hits in range(n + 1)]
    assert covered(p) > 0.79  # the least, of a single draw; on average it is what it says
    grid = (np.arange(200) + 0.5) / 200
    assert 0.94 < np.mean([covered(p) for p in grid]) < 0.975


TOKENS = st.lists(st.integers(0, 2), max_size=80)


@given(TOKENS, TOKENS, st.data())
def test_the_longest_match_is_the_first_of_a_plain_search(text, history, data):
    if text:  # else long matches would be rare
        start, stop = data.draw(st.tuples(*[st.integers(0, len(text))] * 2))
        history = history + text[start:stop]
    best = (0, 0)
    for length in range(1, min(len(history), len(text), LONGEST_MATCH) + 1):
        tail = history[-length:]
        ends = [e for e in range(length, len(text) + 1) if text[e - length : e] == tail]
        if ends:
            best = (ends[0], length)
    assert Lookup(np.array(text, int)).match(history) == best


WORDS = st.lists(st.sampled_from(["a", "b", "ab", "é", "a'b", "a-", "-", ".", "'"]), max_size=14)
GAPS = st.lists(st.sampled_from([" ", " ", " ", "", "\n", "  "]), min_size=14, max_size=14)
PASSAGE = st.builds(
    lambda words, gaps: "".join(map("".join, zip(words, gaps, strict=False))), WORDS, GAPS
)


@given(PASSAGE, PASSAGE, st.integers(1, 4), st.data())
def test_spans_are_the_longest_of_a_plain_search(source, text, least, data):
    start, stop = data.draw(st.tuples(*[st.integers(0, len(source))] * 2))
    text = text + source[start:stop]
    words, want, index = list(WORD.finditer(text)), [], 0
    while index < len(words):
        for stop in range(len(words), index + least - 1, -1):
            begin, end = words[index].start(), words[stop - 1].end()
            places = _whole_words(source, text[begin:end])
            if places:
                line = 7 + source.count("\n", 0, places[0])
                want.append((begin, end, stop - index, line))
                index = stop
                break
        else:
            index += 1
    spans = Source(source, first_line=7).spans(text, least)
    assert [(s.start, s.stop, s.words, s.line) for s in spans] == want


def _whole_words(source, part):
    """Where a part stands in a source without a letter next to one of its own."""

    def letters(pair):
        return len(pair) == 2 and all(c.isalnum() or c == "_" for c in pair)

    return [
        place
        for place in range(len(source) - len(part) + 1)
        if source.startswith(part, place)
        and not letters(source[max(place - 1, 0) : place] + part[0])
        and not letters(part[-1] + source[place + len(part) : place + len(part) + 1])
    ]
