"""Several texts as one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_shakegpt.settings.config import Passage
from mlx_shakegpt.text.collection import joined, text_files
from mlx_shakegpt.text.corpus import Corpus
from mlx_shakegpt.text.tokenizer import decode


@pytest.fixture(autouse=True)
def own_home(monkeypatch, tmp_path):
    monkeypatch.setattr("mlx_shakegpt.text.collection.data_dir", lambda: tmp_path / "data")


def corpora(folder, contents, passage=None):
    files = []
    for i, content in enumerate(contents):
        files.append(folder / f"{i}.txt")
        files[-1].write_bytes(content.encode())
    return [Corpus.load(file, passage or Passage()) for file in files]


def test_a_folder_stands_for_its_texts_in_order(tmp_path):
    for name in ("b.txt", "a.txt", ".hidden.txt", "notes.md"):
        (tmp_path / name).write_text("words\n")
    (tmp_path / "empty").mkdir()
    assert text_files([str(tmp_path), "poem"]) == [
        *sorted(tmp_path.glob("[ab].txt")),
        *text_files(["poem"]),
    ]
    with pytest.raises(ValueError, match="has no text; its texts' names must end in"):
        text_files([str(tmp_path / "empty")])


@given(st.lists(st.text("aB .\n\r’", min_size=1, max_size=30), min_size=2, max_size=4, unique=True))
def test_each_text_stands_whole_on_lines_of_its_own(tmp_path_factory, contents):
    texts = corpora(tmp_path_factory.mktemp("texts"), contents)
    if len({text.ids.tobytes() for text in texts}) < len(texts):
        return
    whole = decode(joined(texts).ids.tolist())
    assert whole == "".join(c if c.endswith("\n") else c + "\n" for c in contents)


def test_of_a_passage_there_is_only_the_passage(tmp_path):
    part, other = corpora(tmp_path, ["one\ntwo three four\nfive\n", "six\n"])
    part = Corpus.load(tmp_path / "0.txt", Passage(first_line=2, tokens=2))
    assert decode(joined([part, other]).ids.tolist()) == "two three\nsix\n"


def test_the_same_twice_is_refused(tmp_path):
    first, second = corpora(tmp_path, ["one two\n", "one two\n"])
    with pytest.raises(ValueError, match=r"the same text is in 0\.txt and 1"):
        joined([first, second])
    (tmp_path / "sub").mkdir()
    (third,) = corpora(tmp_path / "sub", ["three four\n"])
    with pytest.raises(ValueError, match=r"two texts have the name 0\.txt"):
        joined([first, third])
