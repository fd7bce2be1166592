from __future__ import annotations

import os
import subprocess
import sys

from fourm.tokenizers.wordpiece import MAX_CHARACTERS, learn_pieces


def test_characters_come_first_then_continuations_then_pairs_by_frequency():
    pieces = learn_pieces({"abab": 3, "abc": 2, "c": 1}, 8)
    assert pieces[:3] == ["a", "b", "c"]
    assert pieces[3:6] == ["##a", "##b", "##c"]
    assert pieces[6:] == ["ab", "##ab"]  # `ab` occurs 5 times at the start, `##ab` 3 times behind it


def test_merges_build_on_earlier_merges():
    assert (
        learn_pieces({"lower": 5, "lowest": 5}, 40)[-4:].count("lower") + learn_pieces({"low": 5}, 40).count("low") == 2
    )


def test_equal_counts_are_decided_by_the_alphabet_and_not_by_the_order_of_the_words():
    words = {"xy": 2, "uv": 2, "ab": 2}
    turned = dict(reversed(words.items()))
    assert learn_pieces(words, 20) == learn_pieces(turned, 20)
    assert learn_pieces(words, 20)[-3:] == ["ab", "uv", "xy"]


def test_counts_stay_right_where_pairs_overlap():
    assert learn_pieces({"aaaa": 1, "aa": 2}, 10) == ["a", "##a", "aa", "##aa", "aaaa"]


def test_pieces_the_vocabulary_has_already_are_not_repeated():
    pieces = learn_pieces({"bed": 4, "beds": 2}, 20, taken={"bed", "b"})
    assert "bed" not in pieces
    assert "b" not in pieces
    assert "beds" in pieces


def test_rare_pairs_are_not_joined_below_the_minimum():
    assert learn_pieces({"ab": 1, "cd": 3}, 20, min_frequency=2)[-1] == "cd"


def test_never_more_pieces_than_asked():
    assert len(learn_pieces({"abcdef": 3}, 5)) == 5


def test_characters_beyond_the_limit_are_left_out_by_rarity():
    words = {chr(0x4E00 + i): 2 for i in range(MAX_CHARACTERS)} | {"z": 1}
    assert "z" not in learn_pieces(words, 10**6)


def test_overlong_words_are_left_out():
    assert learn_pieces({"q" * 101: 9, "ab": 1}, 20) == ["a", "b", "##b", "ab"]


def test_the_hash_seed_of_the_process_does_not_matter(checkout):
    code = (
        "import random; from fourm.tokenizers.wordpiece import learn_pieces; r = random.Random(0)\n"
        "words = {''.join(r.choices('abcde', k=r.randint(1, 9))): r.randint(1, 4) for _ in range(300)}\n"
        "print(learn_pieces(words, 400, {'ab', 'c'}))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=checkout,
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1
