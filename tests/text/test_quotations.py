import random
import re

import pytest

from mlx_shakegpt.text.quotations import WORD, Source, covered, longest, pieces

TEXT = """First Citizen:
Before we proceed any further, hear me speak.

All:
Speak, speak.

First Citizen:
You are all resolved rather to die than to famish?
"""


def test_a_span_tells_its_line_and_its_words():
    text = "He said: hear me speak.\n\nAll:\nSpeak, softly. You are all resolved rather to live"
    spans = Source(TEXT, first_line=10).spans(text)
    assert [text[s.start : s.stop] for s in spans] == [
        "hear me speak.\n\nAll:\nSpeak,",
        "You are all resolved rather to",
    ]
    assert [(s.line, s.words) for s in spans] == [(11, 8), (17, 6)]
    inside = len(re.sub(r"\s", "", "".join(text[s.start : s.stop] for s in spans)))
    assert covered(spans, text) == pytest.approx(inside / len(re.sub(r"\s", "", text)))


def test_a_span_ends_at_words_not_within_them():
    assert Source("we the people stand here").spans("we the people stand her", least=5) == []
    assert Source("at we the people stand").spans("we the people stands", least=4) == []
    (span,) = Source("the people stand").spans("the people stands", least=2)
    assert span.words == 2
    assert Source("").spans("some words here", least=2) == [] == Source("a b").spans("", least=1)


def test_spans_are_those_of_a_plain_search():
    rng = random.Random(0)
    for _ in range(60):
        source, text = (
            " ".join(rng.choice("ab") * rng.randint(1, 2) for _ in range(n)) for n in (60, 25)
        )
        have, words = source.split(), text.split()
        want, i = [], 0
        while i < len(words):
            lengths = [
                n
                for n in range(3, len(words) - i + 1)
                if any(have[j : j + n] == words[i : i + n] for j in range(len(have)))
            ]
            if lengths:
                want.append((i, max(lengths)))
            i += max(lengths, default=1)
        starts = [m.start() for m in WORD.finditer(text)]
        got = [(starts.index(s.start), s.words) for s in Source(source).spans(text, least=3)]
        assert got == want


@pytest.mark.parametrize(
    ("source", "text", "words"),
    [
        ("xwe the people", "we the people", []),
        ("and we the people", "we the people", [3]),
        ("a, b c", ", b c", [3]),  # a sign may stand beside a letter
        ("b c ,d", "b c ,", [3]),
        ("we the peoplex", "we the people", []),
        ("xwe the peoples, we the people", "we the people", [3]),
    ],
)
def test_a_span_is_not_part_of_a_longer_word_of_the_source(source, text, words):
    assert [span.words for span in Source(source).spans(text, least=3)] == words


def test_lines_count_from_one_and_five_words_are_a_span():
    source = Source("one two three four five\nsix seven eight nine ten")
    assert [source.line(place) for place in (0, 22, 23, 24)] == [1, 1, 1, 2]
    assert source.spans("two three four five") == []
    (span,) = source.spans("one two three four five")
    assert (span.words, span.line) == (5, 1)
    assert source.spans("six seven eight nine ten")[0].line == 2


def test_of_nothing_but_white_space_nothing_is_covered():
    assert covered([], "") == covered([], " \n") == 0.0


def test_the_pieces_of_a_text_are_the_text_with_its_spans_apart():
    text = "So: one two three four five, not this, one two three four five"
    spans = Source("one two three four five").spans(text)
    assert list(pieces(text, spans)) == [
        ("So: ", None), ("one two three four five", spans[0]),
        (", not this, ", None), ("one two three four five", spans[1]),
    ]  # fmt: skip
    assert longest(spans) == 5
    assert list(pieces("none", [])) == [("none", None)] and longest([]) == 0
    assert list(pieces("", [])) == []
