"""A certificate is compared in all that it states, and tested on samples nobody could foresee."""

import copy
import json

import pytest
from conftest import KNOWN_TOKENS

from mlx_shakegpt.verification import certificates
from mlx_shakegpt.verification.comparison import LABELS, compare
from mlx_shakegpt.verification.extraction import wilson
from mlx_shakegpt.verification.fresh import FreshRate
from mlx_shakegpt.verification.proof import sample_seed


def entries(value, path=()):
    """The paths of all entries of a certificate, those of lists of entries too."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from entries(part, (*path, key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for index, part in enumerate(value):
            yield from entries(part, (*path, index))
    else:
        yield path


def changed(paper, path, change):
    """A copy of a certificate with one entry changed, or removed where `change` returns None."""
    copied = copy.deepcopy(paper)
    parent = copied
    for key in path[:-1]:
        parent = parent[key]
    value = change(parent[path[-1]])
    if value is None:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return copied


def other(value):
    """A forged value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return 2 * value + 20
    if isinstance(value, float):
        return value + 0.3 + 0.1 * abs(value)
    if isinstance(value, list):
        return [*value, 1, 2, 3]
    return value + "x"


@pytest.fixture
def paper(bigram_paper):
    """A certificate with a failing offset and a worst line, so that each kind of entry is there."""
    paper = json.loads(json.dumps(bigram_paper))
    paper["worst_lines"] = [{"line": n, "tokens": 9, "wrong": 1, "nll": 0.7} for n in range(3)]
    return paper


def test_no_entry_of_a_certificate_can_be_forged_or_left_out(paper):
    same = compare(paper, paper)
    assert same.differences == [] and len(same.compared) > 90
    assert [name.partition(" ")[0] for name in same.not_compared] == [
        "text.name", "name", "weights.name",
    ]  # fmt: skip
    machine = ("device", "device_name", "dtype", "versions")
    checked = 0
    for path in entries(paper):
        if path[0] == "worst_lines" or (path[0] == "extraction" and path[2] in "km"):
            continue  # see below, and what `read` refuses
        assert compare(changed(paper, path, lambda value: None), paper).differences, path
        only_named = path[0] in machine or ".".join(map(str, path)) in LABELS
        for change in (other, lambda value: [{}]):
            result = compare(changed(paper, path, change), paper)
            assert bool(result.differences) != only_named, path
            assert len(result.compared) + len(result.not_compared) == len(same.compared) + 3, path
            checked += 1
    assert checked > 170


def test_no_key_lets_one_entry_pass_for_another(paper):
    true = json.loads(json.dumps(paper)) | {"certified": False, "nll": 5.0}
    lie = json.loads(json.dumps(paper))
    dotted = {"controls.untrained model.rate": true["controls"]["untrained model"]["rate"]}
    for added in ({"": true}, {"em@32,32": true["extraction"][0]}, dotted):
        for forged in (lie | added, added | lie):
            (difference,) = compare(forged, true).differences
            assert "is called" in difference
    nested = lie | {"controls": lie["controls"] | {"": {}, "a.b": 1}}
    assert compare(nested, lie).differences


def test_a_difference_of_two_places_is_allowed_whatever_their_number(paper):
    for n in range(100, 401):
        share = {"offsets": n, "every_offset": True}
        rates = [paper["extraction"][0] | share | {"rate": hits / n} for hits in (n, n - 2)]
        for rate in rates:
            rate |= {"low": rate["rate"], "high": rate["rate"]}
        there, here = ({"extraction": [rate]} for rate in rates)
        assert compare(there, here).differences == [], n


@pytest.mark.parametrize(
    ("path", "change"),
    [
        (("extra",), lambda _: 1),
        (("worst_lines",), lambda _: []),
        (("worst_lines", 0, "nll"), lambda nll: nll + 0.1),
        (("extraction",), lambda rates: rates[:1]),
        (("controls",), lambda _: {}),
        (("free_running", "median"), lambda median: median - 1),
        (("free_running", "runs"), lambda runs: [84] * 63),
        (("extraction", 0, "failing"), lambda _: [5, 6, 7]),
    ],
)
def test_what_is_more_or_less_than_was_measured_is_a_difference(paper, path, change):
    start = paper | ({"extra": 0} if path == ("extra",) else {})
    assert compare(changed(start, path, change), paper).differences


def test_rounding_is_no_difference(paper):
    rounded = changed(paper, ("nll",), lambda nll: nll * 1.01)
    rounded = changed(rounded, ("accuracy",), lambda share: share - 0.004)
    rounded = changed(rounded, ("controls", "untrained model", "nll"), lambda nll: nll * 0.99)
    rounded = changed(rounded, ("bits",), lambda bits: bits * 1.01)
    rounded = changed(rounded, ("device_name",), lambda _: "another")
    result = compare(rounded, paper)
    assert result.differences == []
    assert any("device_name (another there, " in name for name in result.not_compared)


@pytest.mark.parametrize("lengths", [[], [(32, 32)], [(32, 32), (32, 32)], [(8, 8), (50, 50)]])
def test_a_certificate_without_the_lengths_is_not_sound(paper, tmp_path, lengths):
    first = paper["extraction"][0]
    paper["extraction"] = [first | {"k": k, "m": m} for k, m in lengths]
    certificates.write(tmp_path / "paper.json", paper)
    with pytest.raises(ValueError, match="em@32,32 and em@50,50"):
        certificates.read(tmp_path / "paper.json")


def test_the_seed_of_a_sample_is_that_of_text_and_weights():
    seeds = {sample_seed(text, weights) for text in ("a", "b", "") for weights in ("a", "b", "ab")}
    assert len(seeds) == 9 and all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize(
    ("hits", "offsets", "stated", "agrees"),
    [
        (995, 1000, (0.9962, 1.0), True),  # 0.984 to 0.998
        (983, 1000, (0.9962, 1.0), False),  # 0.968 to 0.991
        (69, 1000, (0.9962, 1.0), False),
        (1000, 1000, (0.91, 0.93), False),  # it states too little
        (300, 300, (0.9945, 0.9945), True),
    ],
)
def test_a_fresh_sample_agrees_where_its_interval_meets_the_stated_one(
    hits, offsets, stated, agrees
):
    low, high = wilson(hits, offsets, 2.575829)
    fresh = FreshRate("em@32,32", hits / offsets, low, high, offsets, stated)
    assert fresh.agrees == agrees
    verb = "agrees" if agrees else "disagrees"
    assert f"a fresh sample of {offsets:,} offsets {verb} with the stated" in str(fresh)


def test_a_fresh_sample_may_be_too_low_for_what_is_certified():
    for hits, offsets, least, may_be in ((985, 1000, 0.99, True), (970, 1000, 0.99, False)):
        low, high = wilson(hits, offsets, 2.575829)
        fresh = FreshRate("em@32,32", hits / offsets, low, high, offsets, (0.9912, 0.999))
        assert fresh.may_be(least) == may_be
    counted = FreshRate("em@32,32", 0.987, 0.987, 0.987, 40_000, (0.9912, 0.999))
    assert counted.agrees and not counted.may_be(0.99)  # within half a point, and yet too low


def test_a_fresh_sample_tests_what_a_certificate_states(shakegpt, known_run, tmp_path):
    folder = tmp_path / "paper"
    options = ["--corpus-tokens", KNOWN_TOKENS, "--samples", 60, "--all-up-to", 0, "--to", folder]
    made = shakegpt("verify", *options, "--require", 0.9, "--json")
    file = folder / "certificate.json"
    paper = json.loads(file.read_text())
    hashes = paper["text"]["sha256"], paper["weights"]["sha256"]
    assert made.json()["seed"] == paper["seed"] == sample_seed(*hashes)
    assert "seed" not in paper["settings"] and made.code == 0, made.err

    again = shakegpt("verify", "--certificate", file, "--json")
    assert again.code == 0 and "em@50,50.failing" in again.json()["compared"], again.err
    assert again.json()["require"] == 0.9 and again.json()["stated_rates"].keys() == {
        "em@32,32", "em@50,50"
    }  # fmt: skip
    fresh = shakegpt("verify", "--certificate", file, "--seed", 3, "--samples", 80, "--json")
    assert fresh.code == 0, fresh.err
    assert [(rate["offsets"], rate["agrees"]) for rate in fresh.json()["fresh"]] == [(80, True)] * 2

    low, high = wilson(12, 60)
    paper["extraction"][0] |= {"rate": 0.2, "low": low, "high": high}
    refused = {"certified": False, "reasons": ["em@32,32 is 0.2000, below 0.9"]}
    file.write_text(json.dumps(paper | refused))
    forged = shakegpt("verify", "--certificate", file, "--seed", 3, "--samples", 80)
    assert forged.code == 1 and f"disagrees with the stated interval [{low:.4f}" in forged.err
    paper["extraction"] = []
    file.write_text(json.dumps(paper))
    assert shakegpt("verify", "--certificate", file).code == 2
    chosen = shakegpt("verify", "--seed", 3)
    assert chosen.code == 2 and "--seed is for --certificate" in chosen.err
