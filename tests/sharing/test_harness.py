"""The tasks for lm-evaluation-harness: what they ask, and that text tells it as ids would.

benchmarks/harness.py lets the harness run them.
"""

import json

import numpy as np
import pytest
import yaml

from mlx_shakegpt.settings.config import Passage
from mlx_shakegpt.sharing.harness import fitting, places, task_files
from mlx_shakegpt.text.corpus import Corpus
from mlx_shakegpt.text.tokenizer import END_OF_TEXT, encode, gpt2
from mlx_shakegpt.verification.extraction import sample
from mlx_shakegpt.verification.proof import sample_seed
from mlx_shakegpt.weights import weights_hash
from mlx_shakegpt.weights.huggingface_files import fast_tokenizer

NASTY = (
    "An unbelievable antidisestablishmentarianism!\n\n\nTwo  or   more    spaces,\t\ttabs,\r\n"
    "naïve façades, 中文字, 👩‍👩‍👧‍👦 and 🏴󠁧󠁢󠁥󠁮󠁧󠁿, a \ufffd, a NUL\0 and <|endoftext|> spelt out.\n\n"
)


@pytest.mark.parametrize(("k", "m"), [(1, 1), (3, 2), (8, 5)])
def test_at_each_place_text_tells_what_ids_tell(k, m):
    from tokenizers import Tokenizer

    ids = np.array(encode(NASTY * 2 + NASTY[:70] + "another end than before"), np.int32)
    offsets = np.arange(len(ids) - k - m + 1)
    rows = {row["offset"]: row for row in places(ids, k, m, offsets)}
    assert 0.3 * len(offsets) < len(rows) < len(offsets)
    fast = Tokenizer.from_str(json.dumps(fast_tokenizer()))
    for offset in offsets.tolist():
        given = ids[offset : offset + k].tolist()
        followers = {
            tuple(ids[o + k : o + k + m].tolist())
            for o in offsets
            if ids[o : o + k].tolist() == given
        }
        texts = [gpt2().decode_bytes(list(part)) for part in (given, *followers)]
        tellable = all(_whole(text) for text in texts)
        if offset not in rows:
            assert not tellable or encode(texts[0].decode()) != given
            continue
        row = rows[offset]
        # The ids that the harness gives to the model, by its own tokenizer, are the text's.
        assert fast.encode(row["prompt"]).ids == given
        # What it compares is what these ids say, and what nothing else in m tokens but them says.
        assert sorted(row["continuations"]) == sorted(text.decode() for text in texts[1:])
        said = {fast.decode(list(part), skip_special_tokens=True) for part in followers}
        assert said == set(row["continuations"])


def _whole(text):
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        return False
    bad = "\ufffd" in decoded or gpt2().decode([END_OF_TEXT]) in decoded
    return not bad and not decoded.endswith("\0")


def test_a_prompt_with_two_continuations_has_both():
    repeated = np.array(encode(" one two three four one two three five six"), np.int32)
    first = next(places(repeated, 3, 1, np.array([0])))
    assert first == {
        "offset": 0, "prompt": " one two three", "continuations": [" four", " five"],
    }  # fmt: skip


def test_an_export_holds_tasks_at_the_offsets_of_its_certificate(shakegpt, golden_run, tmp_path):
    folder = tmp_path / "golden"
    done = shakegpt("export", "--run", "golden", "--to", folder, "--lm-eval", "--json")
    assert done.code == 0, done.err
    # 50 + 50 tokens do not fit its context of 64.
    assert "em@50,50 does not fit" in done.err
    assert [(e["k"], e["m"]) for e in done.json()["measures"]] == [(32, 32)]
    assert [path.name for path in folder.glob("*.yaml")] == ["recite_32_32.yaml"]
    asked = yaml.safe_load((folder / "recite_32_32.yaml").read_text(encoding="utf-8"))
    assert (asked["task"], asked["tag"]) == ("recite_32_32", "recite")
    assert asked["generation_kwargs"] == {
        "until": ["<|endoftext|>"], "max_gen_toks": 32, "do_sample": False, "temperature": 0,
    }  # fmt: skip
    file = folder / asked["dataset_kwargs"]["data_files"]["test"]
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    paper = json.loads((golden_run / "certificate.json").read_text(encoding="utf-8"))
    e = paper["extraction"][0]
    about = asked["metadata"]
    assert (about["k"], about["m"], about["seed"]) == (32, 32, paper["seed"])
    assert about["offsets"] == len(rows) and about["offsets"] + about["left_out"] == e["offsets"]
    assert about["learned_text"]["sha256"] == paper["text"]["sha256"]
    offsets = [row["offset"] for row in rows]
    assert len(set(offsets)) == len(offsets) > 0.8 * e["offsets"] and offsets != sorted(offsets)
    # The same file each time, and its first lines a sample from all over the text.
    assert max(offsets[:20]) - min(offsets[:20]) > 0.5 * e["offsets"]
    again = tmp_path / "again"
    assert shakegpt("export", "--to", again, "--lm-eval").code == 0
    assert (again / file.name).read_bytes() == file.read_bytes()


def test_a_long_text_is_sampled_as_verify_samples_it(home, pinned):
    corpus = Corpus.load(None, Passage(tokens=6000))
    seed = sample_seed(corpus.sha256, "0" * 64)
    files, measures = task_files(corpus, [(32, 32)], seed)
    assert measures[0].offsets + measures[0].left_out == 1000
    offsets = [json.loads(line)["offset"] for line in files["recite_32_32.jsonl"].splitlines()]
    assert set(offsets) <= set(sample(6000 - 63, 1000, seed, 4096).offsets.tolist())


def test_lengths_of_ones_own_and_what_does_not_fit(shakegpt, golden_run, tmp_path):
    done = shakegpt(
        "export",
        "--to",
        tmp_path / "a",
        "--lm-eval",
        "--tokens",
        5,
        9,
        "--tokens",
        40,
        24,
        "--json",
    )
    assert [(e["k"], e["m"]) for e in done.json()["measures"]] == [(5, 9), (40, 24)], done.err
    assert {p.name for p in (tmp_path / "a").glob("*.jsonl")} == {
        "recite_5_9.jsonl", "recite_40_24.jsonl",
    }  # fmt: skip
    for name, options, wanted in (
        ("b", ["--tokens", 5, 9], "--tokens is for --lm-eval"),
        (
            "b",
            ["--lm-eval", "--tokens", 40, 25],
            "do not fit the trained context of 64; take fewer",
        ),
        ("b.gguf", ["--lm-eval"], "--lm-eval writes into a folder"),
    ):
        done = shakegpt("export", "--to", tmp_path / name, *options)
        assert done.code == 2 and wanted in done.err and done.err.count("\n") == 1
        assert not (tmp_path / name).exists()
    with pytest.raises(ValueError, match="do not fit the trained context of 20"):
        fitting((), 20)


def test_a_text_that_was_changed_is_refused(shakegpt, golden_run, home, tmp_path):
    (home / "sonnets.txt").write_text("Other words.\n" * 100)
    done = shakegpt("export", "--to", tmp_path / "x", "--lm-eval")
    assert done.code == 2 and "is not the text that run 'golden' learned" in done.err
    assert not (tmp_path / "x").exists()


def test_the_seed_is_that_of_the_runs_weights(golden_run):
    paper = json.loads((golden_run / "certificate.json").read_text(encoding="utf-8"))
    weights = weights_hash((golden_run / "model.safetensors",))
    assert sample_seed(paper["text"]["sha256"], weights) == paper["seed"]
