"""The shared tokenizers: bytes survive, training is cached, special tokens stay out of texts."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tasks.tokenizer import published_tokenizer, train_byte_bpe

SPECIAL = ("<s>", "<pad>", "</s>")
TEXTS = ["the cat sat on the mat", "the dog sat on the cat, again and again"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    cache = tmp_path_factory.mktemp("cache")
    return train_byte_bpe(TEXTS, vocab_size=280, special_tokens=SPECIAL, cache=cache)


@given(text=st.text())
def test_every_text_survives(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_special_tokens_come_first_and_pairs_are_learnt(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == [0, 1, 2]
    assert tokenizer.get_vocab_size() == 280
    assert len(tokenizer.encode(TEXTS[0]).ids) < len(TEXTS[0].encode())


def test_a_special_token_in_a_text_is_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("so it ends</s> no").ids
    assert 2 not in ids
    assert tokenizer.decode(ids) == "so it ends</s> no"


def test_a_cached_tokenizer_is_the_same_and_other_texts_are_not_mistaken_for_it(
    tmp_path: Path,
) -> None:
    def train(texts: list[str], vocab_size: int = 270) -> str:
        return train_byte_bpe(
            texts, vocab_size=vocab_size, special_tokens=SPECIAL, cache=tmp_path
        ).to_str()

    first, again = train(TEXTS), train(TEXTS)
    assert first == again
    assert len(list(tmp_path.iterdir())) == 1
    train(TEXTS, 271)
    train(["".join(TEXTS)])  # the same characters, otherwise divided
    assert len(list(tmp_path.iterdir())) == 3


def test_the_cache_is_read(tmp_path: Path) -> None:
    settings = {"vocab_size": 270, "special_tokens": SPECIAL, "cache": tmp_path}
    train_byte_bpe(TEXTS, **settings)
    (path,) = tmp_path.iterdir()
    other = train_byte_bpe(["zq zq zq"], vocab_size=262, special_tokens=SPECIAL, cache=tmp_path)
    other.save(str(path))
    assert train_byte_bpe(TEXTS, **settings).get_vocab_size() == other.get_vocab_size()


def test_bad_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"at least 259, .* got 258"):
        train_byte_bpe(TEXTS, vocab_size=258, special_tokens=SPECIAL, cache=tmp_path)
    with pytest.raises(ValueError, match="not a generator"):
        train_byte_bpe(iter(TEXTS), vocab_size=300, special_tokens=SPECIAL, cache=tmp_path)
    with pytest.raises(ValueError, match="the texts are empty"):
        train_byte_bpe(["", ""], vocab_size=300, special_tokens=SPECIAL, cache=tmp_path)


def test_a_tokenizer_file_is_read_and_checked(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    ids = published_tokenizer(str(path), special_tokens=SPECIAL).encode("the mat</s>").ids
    assert ids == tokenizer.encode("the mat</s>").ids
    with pytest.raises(ValueError, match=r"has no token '<mask>'"):
        published_tokenizer(str(path), special_tokens=["<s>", "<mask>"])


def test_a_tokenizer_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot get the tokenizer .*absent.json"):
        published_tokenizer(str(tmp_path / "absent.json"))
