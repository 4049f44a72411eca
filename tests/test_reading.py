"Which words of an expression mean nothing to a text encoder."

import pytest
import torch
from rvos_nb.config import ConfigError
from rvos_nb.encoders import load_tokenizer, write_text_encoder
from rvos_nb.reading import unread_words


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("demo-bert")


@pytest.fixture
def everything(tokenizer):
    return torch.ones(len(tokenizer), dtype=torch.bool)


@pytest.mark.parametrize(
    "text, unread",
    [
        ("the red circle", []),
        ("the dog's, RED; (circle)!", []),
        ("qq", ["qq"]),
        ("red-ish xyzzy", ["xyzzy"]),
        ("the \N{DOG FACE}", ["\N{DOG FACE}"]),
        ("red \u200b circle", []),
        ("a naïve blorp", ["naïve", "blorp"]),
        ("The RED circle, the t-shirt & the dog's", []),
        ("the xyzzy on the left", ["xyzzy"]),
        ("the собака", ["собака"]),
        ("der Hund links", ["der", "Hund", "links"]),
        ("the 狗", ["狗"]),
        ("the d\u200bog", []),
        ("the red\u200b circle !", []),
    ],
)
def test_unknown_words_are_named_as_they_were_written(tokenizer, everything, text, unread):
    assert unread_words(tokenizer, everything, text) == unread


def test_only_what_training_met_is_known(tokenizer, everything):
    ids = tokenizer("the red circle")["input_ids"]
    known = torch.zeros_like(everything)
    assert (
        unread_words(tokenizer, known, "the zebra") == []
    )  # never trained: nothing is known of it
    known[ids] = True
    assert unread_words(tokenizer, known, "the zebra and circle") == ["zebra", "and"]


def test_where_nothing_is_read_there_is_no_answer(tokenizer, everything):
    for text in ("собака", "左边的狗", "\u200b", "\N{DOG FACE}"):
        with pytest.raises(ConfigError, match="can read none of it"):
            unread_words(tokenizer, everything, text)


def test_a_vocabulary_of_one_s_own_decides(tmp_path, everything):
    write_text_encoder(tmp_path, ["hund", "der", "links"])
    tokenizer = load_tokenizer(str(tmp_path))
    known = torch.ones(len(tokenizer), dtype=torch.bool)
    assert unread_words(tokenizer, known, "der Hund links") == []
    assert unread_words(tokenizer, known, "the Hund") == ["the"]
