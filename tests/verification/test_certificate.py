"""What a certificate says and is refused for, and how far figures may lie from it."""

import copy
import json

import pytest
from conftest import bigram, successors

from mlx_shakegpt.runtime import versions
from mlx_shakegpt.settings.config import Passage, VerifyConfig
from mlx_shakegpt.text import assets
from mlx_shakegpt.verification import certificates, comparison
from mlx_shakegpt.verification.certificates import (
    comparable,
    hash_mismatches,
    passage_of,
    read,
    write,
)
from mlx_shakegpt.verification.comparison import compare, share_allowed
from mlx_shakegpt.verification.extraction import wilson


@pytest.fixture
def paper(bigram_paper):
    return json.loads(json.dumps(bigram_paper))


def test_a_certificate_states_what_was_measured_on_what_and_how(bigram_paper, device):
    expected = {
        "format": certificates.FORMAT,
        "text": {"name": "walk.txt", "sha256": "0" * 64, "first_line": 1, "tokens": 300},
        "tokenizer": {"name": "gpt2", "sha256": assets.GPT2_MERGES.sha256},
        "name": "bigram",
        "weights": {"name": "model.safetensors", "sha256": "1" * 64, "dtype": "F32"},
        "model": bigram(successors()).gpt.config.to_json() | {"trained_context": 128},
        "settings": {"require": 0.99, "samples": 1000, "all_up_to": 4096},
        "versions": versions(),
        "device": device.device,
        "device_name": device.name,
        "dtype": "float32",
        "decoding": "greedy, KV cache, no look-up",
    }
    assert {name: bigram_paper[name] for name in expected} == expected
    assert VerifyConfig(**bigram_paper["settings"]) == VerifyConfig()
    assert bigram_paper["certified"] and len(bigram_paper["extraction"]) == 2
    assert passage_of(bigram_paper) == Passage(1, 300)
    assert comparable(bigram_paper) == {
        "nll": bigram_paper["nll"], "accuracy": 1.0, "em@32,32": 1.0, "em@50,50": 1.0,
    }  # fmt: skip


def test_a_certificate_comes_back_as_it_was_written(paper, tmp_path):
    paper["name"] = "Röslein"
    write(tmp_path / "paper.json", paper)
    text = (tmp_path / "paper.json").read_text(encoding="utf-8")
    assert read(tmp_path / "paper.json") == paper and "Röslein" in text
    assert text.startswith('{\n "format"') and text.endswith("}\n")


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        (("format",), "mlx-shakegpt certificate 1", "its format is 'mlx-shakegpt certificate 1'"),
        (("settings", "require"), 2.0, "require is 2.0"),
        (("settings", "more"), 1, "more"),
        (("text", "first_line"), 0, "first_line is 0"),
        (("name",), 3, "it has no name of a model"),
        (("text", "sha256"), 3, "it has no hash of the text"),
        (("tokenizer", "sha256"), None, "it has no hash of the tokenizer"),
        (("weights", "sha256"), [], "it has no hash of the weights"),
        (("extraction",), [], "its rates are not em@32,32 and em@50,50"),
        (("extraction", 0, "low"), 0.0, "the interval of em@32,32 is not that of its rate"),
        (("extraction", 1, "high"), 1.1, "the interval of em@50,50 is not that of its rate"),
        (("extraction", 0, "every_offset"), False, "the interval of em@32,32 is not that of"),
        (("extraction", 0, "rate"), 0.99999, "em@32,32 is no share of its offsets"),
        (("extraction", 0, "rate"), 1.5, "em@32,32 is no share of its offsets"),
        (("extraction", 0, "rate"), float("nan"), "em@32,32 is no share of its offsets"),
        (("extraction", 0, "text_offsets"), 9, "em@32,32 is not of every offset"),
        (("extraction", 0, "offsets"), 10**400, "too large"),
        (("require",), 0.5, "it requires 0.5, and was asked for 0.99"),
        (("reasons",), ["none"], "its verdict is not what its reasons say"),
        (("extraction", 0, "offsets"), 0, "em@32,32 is no share of its offsets"),
        (("extraction", 1, "offsets"), 251.0, "em@50,50 is no share of its offsets"),
        (("nll",), float("inf"), "nll is not a number"),
        (("certified",), 1, "it does not say whether anything is certified"),
    ],
)
def test_a_certificate_that_is_not_sound_is_refused_for_what_it_lacks(
    paper, tmp_path, path, value, why
):
    part = paper
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    write(tmp_path / "paper.json", paper)
    with pytest.raises(ValueError, match="is no sound certificate: ") as error:
        read(tmp_path / "paper.json")
    assert why in str(error.value) and "lacks" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["format", "settings", "text", "name", "weights", "tokenizer", "nll", "extraction",
             "accuracy", "certified"],
)  # fmt: skip
def test_a_certificate_lacks_nothing(paper, tmp_path, name):
    del paper[name]
    write(tmp_path / "paper.json", paper)
    with pytest.raises(ValueError, match=f"no sound certificate: it lacks '{name}'"):
        read(tmp_path / "paper.json")


def test_nothing_is_certified_by_rates_that_may_be_lower(paper, tmp_path):
    low, high = wilson(200, 200)
    paper["extraction"][1] |= {"offsets": 200, "every_offset": False, "low": low, "high": high}
    write(tmp_path / "paper.json", paper)
    with pytest.raises(ValueError, match=r"it certifies 0\.99 with rates that may be lower"):
        read(tmp_path / "paper.json")
    paper |= {"certified": False, "reasons": ["it may be lower"]}
    write(tmp_path / "paper.json", paper)
    assert read(tmp_path / "paper.json") == paper


def test_a_file_too_large_to_be_a_certificate_is_not_read(paper, tmp_path, monkeypatch):
    file = tmp_path / "paper.json"
    write(file, paper)
    size = file.stat().st_size
    monkeypatch.setattr(certificates, "LARGEST", size)
    assert read(file) == paper
    monkeypatch.setattr(certificates, "LARGEST", size - 1)
    with pytest.raises(ValueError, match=f"is no certificate: it has {size:,} bytes"):
        read(file)
    monkeypatch.undo()
    with file.open("a") as more:
        more.truncate(50_000_000)
    with pytest.raises(ValueError, match="damaged"):
        read(file)
    with file.open("a") as more:
        more.truncate(50_000_001)
    with pytest.raises(ValueError, match="it has 50,000,001 bytes"):
        read(file)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.json")


def test_hashes_that_differ_are_named(paper):
    own = {"text": "0" * 64, "weights": "1" * 64}
    assert hash_mismatches(paper, own) == []
    assert hash_mismatches(paper, own | {"text": "2"}) == [
        f"the sha256 of the text is 2, not {'0' * 64}"
    ]
    paper["tokenizer"]["sha256"] = "3"
    (difference,) = hash_mismatches(paper, own)
    assert difference == f"the sha256 of the tokenizer is {assets.GPT2_MERGES.sha256}, not 3"


# How far a figure may lie from that of another measurement.


def differs(measured, path, value):
    """Whether a certificate with one other entry is told apart from a measurement."""
    stated = copy.deepcopy(measured)
    part = stated
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return bool(compare(stated, measured).differences)


def half(offsets, more=0):
    """A rate of one half of a sample, or `more` offsets, with its interval."""
    hits = offsets // 2 + more
    low, high = wilson(hits, offsets)
    sampled = {"offsets": offsets, "every_offset": False}
    return sampled | {"rate": hits / offsets, "low": low, "high": high}


@pytest.fixture
def measured(paper):
    """The figures of a model that knows its text in part, so that each may be more, or less."""
    for rate in paper["extraction"]:
        rate.update(half(1000), p_z_half=0.5, failing=[*range(500)])
        rate["discoverable"] = dict.fromkeys(("1", "10", "100"), 0.5)
    paper |= {"nll": 2.0, "excess": 1.0, "accuracy": 0.5, "determined_accuracy": 0.5, "leak": 0.0}
    paper |= {"bits": 800.0, "bits_per_byte": 3.0, "bits_xz": 1000, "bits_bz2": 1000, "floor": 1.0}
    paper |= {"alignment": [0.5] * 5, "tokens": 1000, "determined": 800, "certified": False}
    paper["free_running"] |= {"score": 0.5, "right": 0.5, "ties": 20}
    paper["controls"]["untrained model"] |= {"nll": 4.0, "rate": 0.5, "accuracy": 0.5}
    paper["controls"]["untrained model"]["offsets"] = 100
    paper["reasons"] = ["em@32,32 is 0.5000, below 0.99", "x is 1e-05 of 1,000 offsets"]
    paper["worst_lines"] = [{"line": n, "tokens": 9, "wrong": 1, "nll": 1.0} for n in range(5)]
    return paper


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (("nll",), 0.02 * 2 + 1e-4),
        (("excess",), 0.02 * 2 + 1e-4),  # as of the loss
        (("controls", "untrained model", "nll"), 0.02 * 4 + 1e-4),
        (("bits",), 0.02 * 800 + 400 * 1e-4),
        (("bits_per_byte",), 0.02 * 3 + 1.5e-4),
        (("bits_xz",), 10),
        (("bits_bz2",), 10),
        (("floor",), 1e-9),
        (("leak",), 1e-3),
        (("accuracy",), 0.005),
        (("determined_accuracy",), 0.005),
        (("extraction", 0, "p_z_half"), 0.03),
        (("extraction", 1, "discoverable", "10"), 0.03),
        (("controls", "untrained model", "rate"), 2 / 100),
        (("controls", "untrained model", "accuracy"), 2 / 100),
        (("free_running", "score"), 8 / 64),
        (("free_running", "right"), 8 / 64),
        (("free_running", "ties"), 8),
    ],
)
def test_each_figure_may_lie_as_far_from_the_stated_one_as_rounding_takes_it(
    measured, path, allowed
):
    value = measured
    for key in path:
        value = value[key]
    for sign in (1, -1):
        assert not differs(measured, path, value + sign * allowed * (1 - 1e-6))
        assert differs(measured, path, value + sign * allowed * (1 + 1e-3) + sign * 2e-16)
        if isinstance(value, int):
            assert not differs(measured, path, value + sign * allowed)
    assert differs(measured, path, True) and differs(measured, path, "0.5")


def test_a_rate_may_be_another_with_its_interval(measured):
    for more, same in ((5, True), (-5, True), (6, False), (-6, False)):
        stated = copy.deepcopy(measured)
        stated["extraction"][0] |= half(1000, more)
        assert bool(compare(stated, measured).differences) != same
    for name in ("low", "high"):  # which is the stated rate's, not nearly so
        value = measured["extraction"][1][name]
        for odd in (value + 1e-6, value - 1e-6, True, "0.5"):
            assert differs(measured, ("extraction", 1, name), odd)


def test_figures_of_a_loss_that_is_nothing_are_compared_as_they_are(measured):
    measured |= {"nll": 0.0, "bits": 0.0}
    assert not differs(measured, ("bits",), 1e-4) and differs(measured, ("bits",), 1.1e-4)


def test_where_nothing_is_determined_there_is_nothing_to_compare(measured):
    measured |= {"determined": 0, "determined_accuracy": 0.0}
    assert compare(measured, measured).differences == []
    assert differs(measured, ("extraction", 0, "offsets"), 0)


def test_shares_of_few_places_may_differ_by_two_of_them():
    assert (share_allowed(400), share_allowed(399)) == (0.005, 2 / 399)
    assert share_allowed(4000) == 0.005 and share_allowed(2) == 1


def test_failing_offsets_may_differ_by_as_many_as_the_rate(measured):
    path = ("extraction", 0, "failing")  # of 1000, 5 may differ
    assert not differs(measured, path, [*range(5, 500)])
    assert differs(measured, path, [*range(6, 500)])
    assert not differs(measured, path, [*range(505)]) and differs(measured, path, [*range(506)])
    assert not differs(measured, path, [*range(2, 503)])
    assert differs(measured, path, [*range(3, 503)])
    for odd in (1.0, True, "1", [1]):
        assert differs(measured, path, [0, odd, *range(2, 500)])


def test_rates_by_place_may_differ_as_those_of_their_share_of_the_offsets(measured):
    path, allowed = ("alignment",), 2 / 200  # 1000 offsets in 5 parts
    assert not differs(measured, path, [0.5 + 0.99 * allowed] * 5)
    assert differs(measured, path, [0.5] * 4 + [0.5 + 1.01 * allowed])
    assert differs(measured, path, [0.5] * 4) and differs(measured, path, [0.5] * 6)
    measured["alignment"] = [0.5]
    measured["extraction"][0] |= half(200)
    assert not differs(measured, path, [0.509]) and differs(measured, path, [0.511])
    measured["alignment"] = []
    assert not differs(measured, path, [])


def test_as_many_free_runs_may_differ_as_ties_may_change(measured):
    path, runs = ("free_running", "runs"), measured["free_running"]["runs"]
    longest = measured["free_running"]["followed"]
    assert len(runs) == 64 and set(runs) == {longest}

    def stated(wrong):
        paper = copy.deepcopy(measured)
        changed = [*wrong, *runs[len(wrong) :]]
        counted = comparison.run_lengths(changed, longest)
        paper["free_running"] |= {"runs": changed, **counted}
        return paper

    assert compare(stated([3] * 8), measured).differences == []
    names = [line.partition(" ")[0] for line in compare(stated([3] * 9), measured).differences]
    assert set(names) >= {"free_running.runs", "free_running.whole", "free_running.histogram"}
    assert compare(stated([0]), measured).differences == []
    for odd in (-1, longest + 1, 3.0, True):
        assert compare(stated([odd]), measured).differences, odd
    fewer = copy.deepcopy(measured)
    fewer["free_running"] |= {"runs": runs[1:], **comparison.run_lengths(runs[1:], longest)}
    assert compare(fewer, measured).differences and differs(measured, path, runs[1:])
    # What is counted on the runs is to be their count, not nearly so.
    for name, value in (("median", 133.0), ("shortest", 133), ("whole", 0.99), ("p5", 133.9)):
        assert differs(measured, ("free_running", name), value)


def test_one_of_few_free_runs_may_differ(measured):
    short = measured["free_running"]
    short |= {"offsets": [*range(5)], "runs": short["runs"][:5]}
    short |= comparison.run_lengths(short["runs"], short["followed"])
    for right, same in ((0.7, True), (0.71, False)):
        assert differs(measured, ("free_running", "right"), right) != same


def test_reasons_are_compared_but_for_their_numbers(measured):
    reasons = ["em@32,32 is 0.4995, below 0.99", "x is 2.5e-06 of 1,001 offsets"]
    assert not differs(measured, ("reasons",), reasons)
    assert differs(measured, ("reasons",), reasons[:1])
    assert differs(measured, ("reasons",), reasons[::-1])
    assert differs(measured, ("reasons",), ["em@32,32 was 0.4995, below 0.99", reasons[1]])


def test_few_of_the_worst_lines_may_be_others(measured):
    lines = measured["worst_lines"]
    for n, same in ((1, True), (2, True), (3, False)):
        other = [line | {"line": 10 + line["line"]} for line in lines[:n]]
        assert differs(measured, ("worst_lines",), [*other, *lines[n:]]) != same
        assert differs(measured, ("worst_lines",), lines[n:]) != same
        assert differs(measured, ("worst_lines",), [*lines, *other]) != same
    for nll, same in ((1.02, True), (0.98, True), (1.0202, False), (0.9798, False)):
        assert differs(measured, ("worst_lines", 0, "nll"), nll) != same
    assert differs(measured, ("worst_lines",), [line | {"wrong": 2} for line in lines])


def test_what_is_not_compared_is_said(measured):
    other = copy.deepcopy(measured)
    other |= {"device_name": "x" * 61, "dtype": "bfloat16", "name": "other"}
    other["versions"] |= {"mlx": "0.1"}
    result = compare(other, measured)
    assert result.differences == []
    mine = measured["device_name"]
    assert result.not_compared[:2] == ["text.name (a name)", "name (a name)"]
    assert f"device_name ({'x' * 59}… there, {mine} here)" in result.not_compared
    assert "dtype (bfloat16 there, float32 here)" in result.not_compared
    assert "worst_lines (measured in another dtype)" in result.not_compared
    assert any(name.startswith("versions.mlx (0.1 there") for name in result.not_compared)
    assert "worst_lines" not in result.compared and "device" in result.compared
    other["device_name"] = "x" * 60
    assert f"device_name ({'x' * 60} there, {mine} here)" in compare(other, measured).not_compared


def test_differences_name_both_sides(measured):
    other = copy.deepcopy(measured) | {"nll": 1.23456789, "more": 1, "decoding": "sampled ×"}
    del other["seed"]
    assert set(compare(other, measured).differences) == {
        "nll is 2, not 1.23457",
        "decoding is greedy, KV cache, no look-up, not sampled ×",
        "more is not a figure",
        "seed is missing",
    }
    assert {"more", "seed", "nll"} <= set(compare(other, measured).compared)


def test_order_of_entries_and_kinds_of_histograms(measured):
    histogram = measured["free_running"]["histogram"]
    turned = dict(reversed(histogram.items()))
    assert not differs(measured, ("free_running", "histogram"), turned)
    assert differs(measured, ("free_running", "histogram"), histogram | {"0-7": 1})
    assert not differs(measured, ("model",), dict(reversed(measured["model"].items())))
