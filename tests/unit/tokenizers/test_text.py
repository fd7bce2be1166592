from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from fourm.errors import CheckpointError, ConfigError, DataError
from fourm.tokenizers.published_text import TEXT_TOKENIZER_VARIABLE
from fourm.tokenizers.text import TextTokenizer, train_wordpiece

TEXTS = [
    "a red sofa left of a table",
    "two chairs behind the table, and a lamp",
    "a bedroom with a bed and a potted plant",
    "the potted plants are green",
]
CLASSES = ("table", "bed", "potted plant", "t-shirt")

GOLDENS = {
    "a photo of a cat": [4321, 5151, 4925, 4321, 4224],
    "Teddy Bear": [4270],
    "v0=0 v1=999 v2=5 v3=7 traffic light": [204, 2203, 2209, 3211, 4276],
    "v1=3 v0=10 v0=20 v0=30": [1207, 214, 224, 234],
    "human v0=1 v1=2 v2=3 v3=4 pose v0=5 v1=6": [6304, 205, 1206, 2207, 3208, 8620, 209, 1210],
    "point v0=1 v1=2 polygon v0=3 v1=4 v2=5 v3=6": [6712, 205, 1206, 14445, 207, 1208, 2209, 3210],
    "none": [18109],
    "v1=13 v0=25": [1217, 229],
    "human pose global camera shape point polygon none color": [6304, 8620, 9292, 5585, 6631, 6712, 14445, 18109, 5206],
}


@pytest.fixture(scope="module")
def published() -> TextTokenizer:
    """The published 4M tokenizer."""
    path = os.environ.get(TEXT_TOKENIZER_VARIABLE)
    if not path:
        pytest.skip(f"{TEXT_TOKENIZER_VARIABLE} does not name the published text tokenizer")
    return TextTokenizer.load(path)


@pytest.fixture(scope="module")
def small() -> TextTokenizer:
    return train_wordpiece(TEXTS, 200, CLASSES, num_sentinels=8, num_coordinates=16)


@pytest.mark.parametrize("text", GOLDENS)
def test_published_tokenizer_encodes_as_published(published, text):
    assert published.encode(text).tolist() == GOLDENS[text]


def test_published_tokenizer_has_the_published_layout(published):
    assert published.vocab_size == 30_000
    assert (published.num_sentinels, published.num_coordinates) == (200, 1000)
    assert (published.pad_id, published.eos_id, published.sentinel(1)) == (0, 3, 5)
    assert [published.token(i) for i in (203, 204, 1204, 2204, 3204, 4204, 4283)] == [
        "[S_199]", "v0=0", "v1=0", "v2=0", "v3=0", "airplane", "zebra",
    ]  # fmt: skip


def test_our_own_training_gives_the_published_ids_to_everything_that_is_not_learned(published):
    classes = [published.token(i) for i in range(4204, 4284)]
    ours = train_wordpiece(TEXTS, 4600, [name for name in reversed(classes) if name])
    assert [ours.token(i) for i in range(4284)] == [published.token(i) for i in range(4284)]
    for text in ("v0=0 v1=999 v2=5 v3=7 traffic light", "Teddy Bear", "v1=13 v0=25", "[S_3] hot dog [EOS]"):
        assert ours.encode(text).tolist() == published.encode(text).tolist()


def test_layout_of_a_small_vocabulary(small):
    assert [small.token(i) for i in range(5)] == ["[PAD]", "[UNK]", "[SOS]", "[EOS]", "[S_0]"]
    assert small.sentinel(7) == 11
    assert [small.token(i) for i in (12, 27, 28, 75)] == ["v0=0", "v0=15", "v1=0", "v3=15"]
    assert [small.token(i) for i in range(76, 80)] == ["bed", "potted plant", "t-shirt", "table"]
    assert small.special.num_sentinels == 8
    assert small.vocab_size <= 200


def test_further_tokens_stand_between_the_values_and_the_class_names():
    tokens = ["[IMG]", "[/IMG]", "[USER]"]
    ours = train_wordpiece(TEXTS, 200, CLASSES, num_sentinels=8, num_coordinates=16, tokens=tokens)
    assert [ours.id_of(token) for token in (*tokens, "bed")] == [76, 77, 78, 79]
    assert ours.encode("[USER]: a bed[IMG]").tolist()[::4] == [78, 76]
    assert ours.encode("[img]").tolist() != [76]
    with pytest.raises(ConfigError, match=r"no token '\[VIDEO\]'"):
        ours.id_of("[VIDEO]")
    with pytest.raises(ConfigError, match="listed twice or a special token anyway"):
        train_wordpiece(TEXTS, 200, tokens=["[EOS]"])


def test_class_names_are_one_id_also_inside_captions_and_in_any_case(small):
    assert small.encode("Potted Plant").tolist() == [77]
    assert 79 in small.encode("a TABLE, please").tolist()
    assert 76 not in small.encode("a bedroom").tolist()


def test_decoding_gives_back_what_was_encoded(small):
    for text in (*TEXTS, "v0=3 v1=0 v2=15 v3=7 potted plant v0=1 v1=1 v2=2 v3=2 t-shirt"):
        assert small.decode(small.encode(text)) == text


def test_decoding_stops_at_the_end_and_leaves_out_padding_sentinels_and_foreign_ids(small):
    sofa, red = small.encode("sofa").tolist(), small.encode("red").tolist()
    ids = [small.sentinel(1), *red, small.pad_id, -1, 10**6, *sofa, small.eos_id, *red]
    assert small.decode(ids) == "red sofa"


def test_encoding_an_empty_text_gives_no_ids(small):
    ids = small.encode("")
    assert ids.shape == (0,)
    assert ids.dtype == np.int64


def test_chunks_are_encoded_one_by_one(small):
    assert [ids.tolist() for ids in small.encode_chunks(["v1=3 v0=10", "v1=4"])] == [[31, 22], [32]]


def test_save_and_load_keep_ids_and_hash(small, tmp_path):
    digest = small.save(tmp_path / "text")
    for path in (tmp_path / "text", tmp_path / "text" / "tokenizer.json"):
        again = TextTokenizer.load(path)
        assert again.hash == digest == small.hash
        assert again.encode(TEXTS[0]).tolist() == small.encode(TEXTS[0]).tolist()


def test_hash_differs_with_the_vocabulary(small):
    other = train_wordpiece(TEXTS[:2], 200, CLASSES, num_sentinels=8, num_coordinates=16)
    assert other.hash != small.hash


def test_survives_pickling_for_loader_processes(small):
    assert pickle.loads(pickle.dumps(small)).encode(TEXTS[1]).tolist() == small.encode(TEXTS[1]).tolist()


def test_too_small_a_vocabulary_says_how_many_ids_are_taken():
    with pytest.raises(ConfigError, match=r"vocab_size 4000 leaves no room.*4204 ids"):
        train_wordpiece(TEXTS, 4000)


@pytest.mark.parametrize("classes", [("sofa", "Sofa"), ("",), ("v0=3",)])
def test_unusable_class_names_are_refused(classes):
    with pytest.raises(ConfigError, match="class name"):
        train_wordpiece(TEXTS, 5000, classes)


def test_no_texts_are_refused():
    with pytest.raises(DataError, match="no texts"):
        train_wordpiece([], 5000)


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no text tokenizer at .*missing\.json.*wordpiece"):
        TextTokenizer.load(tmp_path / "missing.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"bad\.json is not a text tokenizer"):
        TextTokenizer.load(tmp_path / "bad.json")


def test_a_foreign_wordpiece_that_ends_no_text_is_refused(tmp_path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]")).save(str(tmp_path / "bert.json"))
    with pytest.raises(CheckpointError, match=r"nothing ends a text, for it has none of \[EOS\], </s>"):
        TextTokenizer.load(tmp_path / "bert.json")


def test_sentinels_at_other_places_than_published_are_refused(tmp_path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordPiece({"[UNK]": 0, "[S_0]": 1}, unk_token="[UNK]")).save(str(tmp_path / "other.json"))
    with pytest.raises(CheckpointError, match=r"\[PAD\] has id None, expected 0"):
        TextTokenizer.load(tmp_path / "other.json")


def test_sentinels_beyond_the_vocabulary_are_refused(small):
    with pytest.raises(ConfigError, match=r"\[S_0\] to \[S_7\]"):
        small.sentinel(8)


def test_words_that_were_met_before_have_the_ids_that_the_whole_text_gives() -> None:
    """Whatever stands beside them: class names of several words, special tokens, marks, other scripts, spaces."""
    made = train_wordpiece(["a hot dog and a cat"] * 3, 400, ["dog", "hot dog", "cat"], num_coordinates=30)
    words = [
        "a",
        "cat",
        "cats",
        "Cat.",
        "hot",
        "dog",
        "Hot Dog",
        "hotdog",
        "dogcat",
        "v0=3",
        "v0=99",
        "v1=1v2=2",
        "x",
        "",
    ]
    words += ["[EOS]", "[S_1]dog", "(dog)", "##t", "caf\u00e9", "\u72ac", "a\tcat", "\x07", "hot-dog", "don't"]
    drawn = np.random.default_rng(0)
    for text in [*words, *(" ".join(drawn.choice(words, drawn.integers(2, 9))) for _ in range(1000))]:
        ids = made.encode(text)
        assert ids.tolist() == made._backend.encode(text, add_special_tokens=False).ids, text
        assert ids.dtype == np.int64
    assert {"cat", "v0=3", "Cat."} <= set(made._pieces)
    assert not {"caf\u00e9", "a\tcat"} & set(made._pieces)


def test_words_are_not_told_apart_where_the_tokenizer_has_other_rules() -> None:
    from tokenizers import normalizers

    made = train_wordpiece(["a hot dog"], 400, num_sentinels=8, num_coordinates=2)
    made._backend.normalizer = normalizers.Sequence(
        [normalizers.Replace("hot dog", "dog hot"), normalizers.Lowercase()]
    )
    other = TextTokenizer(made._backend)
    assert other.encode("hot dog").tolist() == made.encode("dog")[:].tolist() + made.encode("hot").tolist()


def test_the_store_of_words_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr("fourm.tokenizers.text._KEPT_WORDS", 3)
    made = train_wordpiece(["a hot dog"], 400, num_sentinels=8, num_coordinates=2)
    made.encode("a b c d e f g")
    assert len(made._pieces) <= 3
