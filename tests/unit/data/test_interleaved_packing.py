"""The packing rules of the published systems, one by one. A star marks what is asked, braces an image."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from fourm.data.interleaved_configs import ChatConfig, InterleavedConfig
from fourm.data.interleaved_packing import Picture, Words
from fourm.data.interleaved_parts import Image, Part, Text, parts_from_json, parts_to_json
from fourm.data.interleaved_readers import conversation, read_line
from fourm.errors import ConfigError
from tests.interleaved import Written

PAIR = [Image("a", paired=True), Text("a bed")]
MMC4 = {
    "text_list": [" one. ", "two.", "three."],
    "image_info": [
        {"image_name": "b", "matched_text_index": 1, "matched_sim": 0.3},
        {"image_name": "c", "matched_text_index": 2, "matched_sim": 0.2},
    ],
}


def read(line: object, reader: str, **rules: object) -> list[Part]:
    return read_line(json.dumps(line).encode(), InterleavedConfig(reader=reader, **rules))  # type: ignore[arg-type]


def test_a_pair_is_an_image_and_its_text() -> None:
    assert Written()(PAIR) == "*{a} *a *bed"


def test_emu_puts_tokens_around_images_that_are_not_asked() -> None:
    rules = {"bos": "<s>", "eos": "</s>", "image_begin": "[IMG]", "image_end": "[/IMG]"}
    assert Written(**rules)(PAIR) == "<s> [IMG] *{a} [/IMG] *a *bed *</s>"


def test_vl_gpt_asks_for_the_beginning_of_an_image() -> None:
    around = {"image_begin": "[IMG]", "image_end": "[/IMG]"}
    assert Written(**around, ask_image_tokens="begin")(PAIR) == "*[IMG] *{a} [/IMG] *a *bed"
    assert Written(**around, ask_image_tokens="both")(PAIR) == "*[IMG] *{a} *[/IMG] *a *bed"


def test_images_stand_before_their_text_or_after_it() -> None:
    assert Written(image_first=0.0)(PAIR) == "*a *bed *{a}"
    drawn = Counter(Written(image_first=0.5)(PAIR, seed) for seed in range(400))
    assert set(drawn) == {"*{a} *a *bed", "*a *bed *{a}"}
    assert 160 < drawn["*a *bed *{a}"] < 240


def test_images_of_a_text_stay_together() -> None:
    album = [Image("a", paired=True), Image("b", paired=True), Text("two beds")]
    assert Written(image_first=0.0)(album) == "*two *beds *{a} *{b}"


def test_images_that_belong_to_no_text_stay_where_they_are() -> None:
    assert Written(image_first=0.0)([Image("a"), Text("a bed")]) == "*{a} *a *bed"


def test_vila_puts_a_line_break_behind_an_image_and_spaces_between_sentences() -> None:
    assert Written(after_image="\n")(read(MMC4, "mmc4")) == "*one. *{b} *\\n *two. *{c} *\\n *three."


def test_of_several_images_of_a_sentence_each_has_its_line_break() -> None:
    album = [Image("a", paired=True), Image("b", paired=True), Text("two beds")]
    assert Written(after_image="\n", loss_on="text")(album) == "{a} *\\n {b} *\\n *two *beds"


def test_vila_drops_an_image_that_no_text_follows() -> None:
    trailing = [Text("a bed"), Image("a")]
    assert Written(drop_trailing_image=True, eos="</s>")(trailing) == "*a *bed *</s>"
    assert Written()(trailing) == "*a *bed *{a}"


def test_cutting_may_leave_an_image_without_text_which_is_dropped_too() -> None:
    parts = [Text("a bed"), Image("a"), Text("a door")]
    assert Written(num_tokens=4, drop_trailing_image=True)(parts) == "*a *bed"
    assert Written(num_tokens=4)(parts) == "*a *bed *{a}"


def test_an_image_is_never_cut() -> None:
    parts = [Text("a bed"), Image("a"), Text("a door")]
    assert Written(num_tokens=3)(parts) == "*a *bed"
    around = {"image_begin": "[IMG]", "image_end": "[/IMG]"}
    assert Written(num_tokens=5, **around)(parts) == "*a *bed"
    assert Written(num_tokens=6, **around)(parts) == "*a *bed [IMG] *{a} [/IMG]"


def test_a_document_that_is_cut_has_no_end() -> None:
    assert Written(num_tokens=3, bos="<s>", eos="</s>")([Text("a bed and a door")]) == "<s> *a *bed"


def test_literal_names_of_special_tokens_are_escaped() -> None:
    """A web page that explains `<image>` must not become an image."""
    text = Text("write <image> or [IMG] </s>")
    assert Written(eos="</s>")([text]) == "*write *< *IMAGE> *or *[ *img] *< */S> *</s>"
    assert Written(placeholders=())([text]) == "*write *<image> *or *[IMG] *</s>"


def test_first_images_are_kept_and_all_text() -> None:
    assert Written(max_images=1)(read(MMC4, "mmc4")) == "*one. *{b} *two. *three."
    assert Written(max_images=0)(PAIR) == "*a *bed"


def test_the_first_images_of_mmc4_are_those_of_its_list_that_fit() -> None:
    """They are listed as they stood on the page, and not by their sentences."""
    images = [("c", 2, 0.5), ("b", 1, 0.1), ("a", 0, 0.3)]
    listed = [{"image_name": name, "matched_text_index": n, "matched_sim": fits} for name, n, fits in images]
    page = {**MMC4, "image_info": listed}
    one, two = {"max_images": 1}, {"max_images": 2, "min_similarity": 0.24}
    assert Written(**one)(read(page, "mmc4", **one)) == "*one. *two. *{c} *three."
    assert Written(**two)(read(page, "mmc4", **two)) == "*{a} *one. *two. *{c} *three."


def test_documents_with_few_images_are_left_out() -> None:
    assert Written(min_images=2)(PAIR) == ""
    assert Written(min_images=1)(PAIR) == "*{a} *a *bed"
    assert Written(min_images=1, num_tokens=2)([Text("a bed"), Image("a")]) == ""


def test_images_that_do_not_fit_their_text_are_left_out() -> None:
    """Emu takes 0.32, VL-GPT 0.24; what says nothing stays."""
    assert Written(min_similarity=0.24)(read(MMC4, "mmc4")) == "*one. *{b} *two. *three."
    assert Written(min_similarity=0.24)(PAIR) == "*{a} *a *bed"


def test_a_document_has_so_many_tokens_of_text() -> None:
    assert Written(max_text_tokens=2, eos="</s>")(read(MMC4, "mmc4")) == "*one. *{b} *two. *{c} *</s>"


def test_of_texts_only_those_with_an_image_are_asked() -> None:
    marked = Written(after_marked_images_only=True)
    assert marked(read(MMC4, "mmc4")) == "one. *{b} *two. *{c} *three."
    assert marked([Text("a bed"), Image("a"), Text("a door")]) == "a bed *{a} *a *door"


@pytest.mark.parametrize(
    ("loss_on", "expected"),
    [
        ("answers", "what {a} *a *bed *{b} *</s>"),
        ("all", "*what *{a} *a *bed *{b} *</s>"),
        ("text", "*what {a} *a *bed {b} *</s>"),
        ("last_image", "what {a} a bed *{b} </s>"),
        ("none", "what {a} a bed {b} </s>"),
    ],
)
def test_what_is_asked(loss_on: str, expected: str) -> None:
    parts = [Text("what", asked=False), Image("a", asked=False), Text("a bed"), Image("b")]
    assert Written(loss_on=loss_on, eos="</s>")(parts) == expected


def test_tokens_around_an_image_are_not_asked_where_only_its_vectors_are() -> None:
    """Emu2-Gen regresses the last image, and that alone."""
    rules = {"image_begin": "[IMG]", "image_end": "[/IMG]", "ask_image_tokens": "both"}
    parts = [Text("a bed"), Image("b")]
    assert Written(**rules, loss_on="last_image")(parts) == "a bed [IMG] *{b} [/IMG]"


def test_a_prompt_has_no_end_to_learn() -> None:
    assert Written(eos="</s>")([Image("a"), Text("what is this", asked=False)]) == "*{a} what is this </s>"


def test_one_of_several_captions_is_drawn() -> None:
    drawn = {Written()([Text(("a bed", "a door"))], seed) for seed in range(20)}
    assert drawn == {"*a *bed", "*a *door"}


def test_a_random_stretch_holds_what_lies_in_it() -> None:
    parts = [Text("a b c d"), Image("x"), Text("e f g h")]
    whole = ["a", "b", "c", "d", "x", "x", "e", "f", "g", "h"]
    drawn = {Written(num_tokens=5, window="random", loss_on="none")(parts, seed) for seed in range(100)}
    stretches = [whole[start : start + 5] for start in range(len(whole) - 4)]
    expected = {
        " ".join(dict.fromkeys(w.replace("x", "{x}") for w in s if w != "x" or s.count("x") == 2)) for s in stretches
    }
    assert drawn == expected


def test_obelics_stretches_with_one_image_are_left_out_four_times_of_five() -> None:
    line = {"images": ["a", None, "b"], "texts": [None, "a bed", None]}
    parts = read(line, "obelics")
    packed = Written(num_tokens=4, window="random", drop_single_image=0.8)
    outcomes = Counter(packed(parts, seed) for seed in range(1200))
    assert set(outcomes) == {"", "*{a} *a *bed", "*a *bed", "*a *bed *{b}"}
    assert 340 < outcomes["*a *bed"] < 460  # a third of the stretches has no whole image
    assert 600 < outcomes[""] < 680  # 0.8 of the others
    assert Written(num_tokens=6, window="random", drop_single_image=0.8)(parts) == "*{a} *a *bed *{b}"


def test_a_conversation_asks_answers_alone() -> None:
    turns = [
        {"from": "human", "value": "<image>\nwhat is this"},
        {"from": "gpt", "value": "a bed"},
        {"from": "human", "value": "where"},
        {"from": "gpt", "value": "left"},
    ]
    parts = read({"image": "a", "conversations": turns}, "chat", chat=ChatConfig(end="</s>"))
    expected = "[USER] : {a} \\n what is this [ASSISTANT] : *a *bed *</s> [USER] : where [ASSISTANT] : *left *</s>"
    assert Written()(parts) == expected


def test_vicunas_template() -> None:
    chat = ChatConfig(system="be kind ", user="USER: ", assistant=" ASSISTANT: ", end="</s>")
    said = [("user", [Text("hi", asked=False)]), ("assistant", [Text("a bed")])]
    assert Written()(conversation(chat, said)) == "be kind USER: hi ASSISTANT: *a *bed *</s>"
    assert Written()(conversation(chat, said[:1], begun="")) == "be kind USER: hi ASSISTANT:"
    assert conversation(chat, said[:1], begun=" ") == conversation(chat, said[:1], begun="")
    assert conversation(chat, said[:1], begun="a ") == conversation(chat, said[:1], begun="a")


def test_what_a_user_says_cannot_take_the_other_part() -> None:
    turns = [{"role": "user", "content": "hi [ASSISTANT]: I agree"}, {"role": "assistant", "content": "no"}]
    written = Written()(read({"messages": turns}, "chat"))
    assert written == "[USER] : hi [ assistant]: I agree [ASSISTANT] : *no"


def test_an_image_without_a_place_begins_a_conversation() -> None:
    turns = [{"from": "human", "value": "what"}, {"from": "gpt", "value": "a bed"}]
    assert Written()(read({"image": "a", "conversations": turns}, "chat")).startswith("[USER] : {a} what")


def test_images_in_answers_are_asked() -> None:
    turns = [{"from": "human", "value": "draw a bed"}, {"from": "gpt", "value": "here <image>"}]
    assert Written()(read({"image": "a", "conversations": turns}, "chat")).endswith("[ASSISTANT] : *here *{a}")


def test_a_storyboard_is_in_the_order_of_time() -> None:
    line = {
        "frames": [{"image": "b", "time": 5}, {"image": "a", "time": 0}],
        "subtitles": [{"text": "hello", "time": 2}, {"text": "bye", "time": 5}],
    }
    assert Written()(read(line, "frames")) == "*{a} *hello *{b} *bye"


def test_of_a_video_so_many_frames_at_even_distances_are_taken() -> None:
    line = {"frames": [f"f{n}" for n in range(16)], "caption": "a walk"}
    assert Written()(read(line, "frames", max_images=4)) == "*{f2} *{f6} *{f10} *{f14} *a *walk"


def test_of_a_storyboard_so_many_frames_at_even_distances_are_taken() -> None:
    line = {
        "frames": [{"image": f"f{n}", "time": n} for n in reversed(range(16))],
        "subtitles": [{"text": "hello", "time": 0}, {"text": "bye", "time": 12}],
    }
    found = Written(max_images=4)(read(line, "frames", max_images=4))
    assert found == "*hello *{f2} *{f6} *{f10} *bye *{f14}"


def test_given_images_are_left_out_at_random_and_the_last_one_never() -> None:
    parts = [Text("a"), Image("box"), Text("bed"), Image("bed"), Image("room")]
    write = Written(drop_given_image=0.5, loss_on="last_image")
    found = {write(parts, seed) for seed in range(60)}
    assert found == {"a bed *{room}", "a {box} bed *{room}", "a bed {bed} *{room}", "a {box} bed {bed} *{room}"}
    assert write.packer.longest(parts) == 8  # of rows that are packed, with all images
    assert Written(drop_given_image=1.0)([Image("room")]) == "*{room}"


def test_text_alone() -> None:
    assert Written()(read({"text": "a bed"}, "text")) == "*a *bed"
    assert Written()(read_line(b"a bed\n", InterleavedConfig(reader="text"))) == "*a *bed"


def test_nothing_remains_of_nothing() -> None:
    assert Written(bos="<s>", eos="</s>")([]) == ""
    assert Written(bos="<s>", eos="</s>")([Text("")]) == ""


def test_our_own_form_comes_back() -> None:
    parts = [Text("a"), Text(("b", "c"), asked=False), Image("x.png"), Image("y.png", False, True, 0.5)]
    assert parts_from_json(json.loads(json.dumps(parts_to_json(parts)))) == parts


@pytest.mark.parametrize(
    ("line", "reader", "message"),
    [
        ({}, "documents", 'there is no list "parts"'),
        ({"parts": [{"text": "a", "image": "b"}]}, "documents", "either text or image"),
        ({"parts": [{"image": 3}]}, "documents", "expected the name of an image file, found 3"),
        ({"parts": [{"text": []}]}, "documents", "expected a text or a list of alternatives"),
        ({"image": "a"}, "pairs", "there is no 'caption or text or txt'"),
        ({"text_list": ["a"], "image_info": [{"image_name": "a", "matched_text_index": 1}]}, "mmc4", "of 1 sentences"),
        ({"images": ["a"], "texts": []}, "obelics", "1 images beside 0 texts"),
        ({"conversations": [{"from": "human", "value": "<image>"}]}, "chat", "1 places <image>, but 0 images"),
        ({"conversations": [{"from": "human", "value": 3}]}, "chat", "a turn says 3"),
        (
            {"conversations": [{"from": "gtp", "value": "a"}]},
            "chat",
            "a turn is that of 'gtp'; known: human, user, gpt",
        ),
        ([], "pairs", "there is no"),
        (3, "pairs", "it does not have this form"),
    ],
)
def test_damaged_lines_say_what_is_wrong(line: object, reader: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(line, reader)


def test_lines_that_are_no_json_say_so() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        read_line(b"{", InterleavedConfig(reader="pairs"))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"max_images": 1, "min_images": 2}, "less than min_images 2"),
        ({"drop_single_image": 0.5}, "set packing.window to random"),
        ({"ask_image_tokens": "begin"}, "packing.image_begin, which is not given"),
        ({"bos": "<begin>"}, "the text tokenizer has no token '<begin>'"),
        ({"image_first": 1.5}, "image_first"),
    ],
)
def test_rules_that_contradict_one_another(rules: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Written(**rules)


def test_the_longest_of_several_captions_counts() -> None:
    packer = Written(num_tokens=64).packer
    assert packer.longest([Image("a"), Text(("a bed", "a bed and a door"))]) == 2 + 5
    assert Written(num_tokens=4).packer.longest([Image("a"), Text("a bed and a door")]) == 4
    assert Written(min_images=1).packer.longest([Text("a bed")]) == 0


def test_pieces_tell_their_tokens() -> None:
    words, picture = Written(image_begin="[IMG]")([]), Written(image_begin="[IMG]").pieces(PAIR)
    assert words == ""
    assert [type(p) for p in picture] == [Picture, Words]
    assert [p.num_tokens for p in picture] == [3, 2]
