import numpy as np
import pytest

from mlx_shakegpt.settings.config import Passage
from mlx_shakegpt.text.corpus import Corpus
from mlx_shakegpt.text.vocabulary import Vocabulary


def test_closed_vocabulary_knows_every_id_and_one_row_for_the_rest():
    vocabulary = Vocabulary.of(np.array([7, 3, 7, 11]), total=20)
    assert (vocabulary.rows, vocabulary.absent) == (4, 17)
    assert vocabulary.rows_of(np.array([3, 7, 11, 0, 19])).tolist() == [0, 1, 2, 3, 3]
    everything = Vocabulary.of(np.arange(5), total=5)
    assert (everything.rows, everything.absent) == (5, 0)


def test_passage_starts_at_its_line_and_has_its_tokens():
    corpus = Corpus.load(None, Passage(first_line=15877, tokens=50))
    from mlx_shakegpt.text.tokenizer import decode

    assert decode(corpus.ids).startswith("ROMEO:\nIs the day so young?")
    assert len(corpus.ids) == 50


def test_only_newlines_end_a_line(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("one\x0cpage\r\ntwo\u2028more\nthree\n".encode())
    from mlx_shakegpt.text.tokenizer import decode

    for line, rest in ((2, "two\u2028more\nthree\n"), (3, "three\n")):
        assert decode(Corpus.load(path, Passage(first_line=line)).ids) == rest
    with pytest.raises(ValueError, match="has 3 lines"):
        Corpus.load(path, Passage(first_line=4))


@pytest.mark.parametrize(
    ("content", "passage", "words"),
    [
        (b"", Passage(), "is empty"),
        (b"to be\xff or", Passage(), "byte 5 is 0xff"),
        (b"one\ntwo\n", Passage(first_line=4), "has 2 lines"),
        (b"one\ntwo\n", Passage(tokens=99), "cannot have 99"),
    ],
)
def test_texts_that_cannot_be_learned_are_refused(tmp_path, content, passage, words):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        Corpus.load(path, passage)


def test_around_several_passages_is_what_none_of_them_has(tmp_path):
    from mlx_shakegpt.text.tokenizer import encode

    lines = [f"line {number} of a text\n" for number in range(9)]
    file = tmp_path / "text.txt"
    file.write_text("".join(lines))
    learned = [Passage(4, 20), Passage(2, 10)]
    before, after = Corpus.load(file, Passage(3, 5)).around(learned)
    assert before.tolist() == encode(lines[0])
    assert after.tolist() == encode("".join(lines[3:]))[20:]
    before, after = Corpus.load(file, Passage(3, 5)).around()
    assert before.tolist() == encode("".join(lines[:2]))
    assert after.tolist() == encode("".join(lines[2:]))[5:]


def test_an_excerpt_has_the_passage_and_no_more_than_its_tokens_need(tmp_path):
    from mlx_shakegpt.text.tokenizer import encode, gpt2

    text = "Title\n\n\nEntwürfe: naïve 👩‍👩‍👧 中文  \n\n   unbelievably, it's 1234567 \n\n\nlast\n"
    file = tmp_path / "text.txt"
    file.write_text(text, encoding="utf-8")
    assert Corpus.load(file, Passage()).excerpt() == file.read_bytes()
    for line in (1, 3, 4):
        rest = "".join(text.splitlines(keepends=True)[line - 1 :])
        for n in range(1, len(encode(rest))):
            passage = Corpus.load(file, Passage(line, n))
            cut, ids = passage.excerpt().decode(), passage.ids.tolist()
            assert rest.startswith(cut) and encode(cut)[:n] == ids
            more = len(cut.encode()) - sum(map(len, gpt2().decode_tokens_bytes(ids)))
            assert 0 <= more <= len(" unbelievably"), (line, n, cut)
    part = Corpus.load(file, Passage(1, 20))
    file.write_text("another text", encoding="utf-8")
    with pytest.raises(ValueError, match="written anew"):
        part.around()
    with pytest.raises(ValueError, match="written anew"):
        part.excerpt()
