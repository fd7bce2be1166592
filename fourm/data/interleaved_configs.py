"""How documents of text and images become rows, free of torch: the published rules of all systems are options here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from fourm.errors import ConfigError
from fourm.ranges import check_range

READERS = ("documents", "aligned", "pairs", "mmc4", "obelics", "chat", "frames", "text")
Reader = Literal["documents", "aligned", "pairs", "mmc4", "obelics", "chat", "frames", "text"]


@dataclass(frozen=True)
class ChatConfig:
    """What stands between the turns of a conversation. Names of special tokens mean these tokens.

    Args:
        system: before everything.
        user: before what the user says. Where `end` is empty, answers and this meet: begin it with a space or a token.
        assistant: before what the assistant answers. Spaces at its end belong to the answer, for most vocabularies
            have words that begin with one: prompts end before them.
        end: after every answer; asked as the answer is.
    """

    system: str = ""
    user: str = "[USER]: "
    assistant: str = " [ASSISTANT]: "
    end: str = ""


@dataclass(frozen=True)
class InterleavedConfig:
    """Documents of text and images (VILA, Lin et al. 2023; Emu, Sun et al. 2023; VL-GPT, Zhu et al. 2023).

    Special tokens are given by their names in the vocabulary.

    Args:
        num_tokens: most tokens of a row, those of images included. What does not fit is cut off; an image never is cut,
            the document ends before it.
        reader: what the files hold. `documents`: our own form; `aligned`: shards or folders of images and captions;
            `pairs`: lines of `image` and `caption`; `mmc4`; `obelics`; `chat`: LLaVA's `conversations`; `frames`:
            frames with subtitles, or with one caption; `text`: lines of `text`, or plain text of which every line is a
            document. All but `aligned` are files of one JSON object per line.
        images: folder that names of images begin in; null: that of the file. No name leads out of it.
        pack: several documents in a row, which do not see one another; false: a row is a document.
        group: so many documents one after another make a row (COYO's pairs, 4 in VILA).
        group_apart: those of a group do not see one another, and each has its own `bos` (VILA's code);
            else they are one document.
        open_rows, shuffle: see `WholeConfig`, for `pack`.
        bos, eos: before and after every document; within a group, every part of it has its `eos`.
        image_begin, image_end: around every image.
        ask_image_tokens: which of those are predicted (none: Emu's code; begin or both: VL-GPT).
        loss_on: what is asked: `answers`, what documents do not mark as given, which is everything where they mark
            nothing; `all`; `text`, and no image; `last_image` alone (Emu2-Gen); `none`.
        after_marked_images_only: of texts, only those that come with an image are asked (VILA's
            `image_following_text_only`).
        image_first: probability that images stand before the text they belong to; they stand after it otherwise.
        after_image: put behind every image that a text of its own follows (VILA: a line break).
        join: put between texts that meet.
        min_images: documents with fewer are left out.
        max_images: of a document; further ones are left out, its text stays. Of MMC4, the first of its list; of videos,
            so many frames at even distances.
        min_similarity: images whose text they are said to fit less are left out.
        max_text_tokens: of a document, which ends where it has more.
        window: a document that is too long is cut behind its `first` tokens, or a `random` stretch of it is taken.
        drop_single_image: probability of leaving out a random stretch that has one image (OBELICS in VL-GPT: 0.8).
        drop_trailing_image: leave out images that no text follows.
        drop_given_image: probability of leaving out an image that is not the last of its document (Emu2-Gen, whose
            boxes and subjects are dropped at random).
        subject_background: probability of putting a subject, which is an image with transparency that is not asked, on
            a ground of one random colour, and not on what its file holds there (Emu2-Gen).
        subject_crop: smallest share of the area that is cut out of such a subject at random; 1: all of it.
        placeholders: names that must not count as special tokens where data holds them literally: their letters change
            between small and capital. The names of tokens given above are never left out of these.
        chat: what stands between the turns of a conversation.
    """

    target: ClassVar[str] = "fourm.data.interleaved:InterleavedDocuments"

    num_tokens: int = 2048
    reader: Reader = "documents"
    images: str | None = None
    pack: bool = False
    group: int = 1
    group_apart: bool = False
    open_rows: int = 64
    shuffle: bool = True
    bos: str | None = None
    eos: str | None = None
    image_begin: str | None = None
    image_end: str | None = None
    ask_image_tokens: Literal["none", "begin", "both"] = "none"
    loss_on: Literal["answers", "all", "text", "last_image", "none"] = "answers"
    after_marked_images_only: bool = False
    image_first: float = 1.0
    after_image: str = ""
    join: str = " "
    min_images: int = 0
    max_images: int | None = None
    min_similarity: float | None = None
    max_text_tokens: int | None = None
    window: Literal["first", "random"] = "first"
    drop_single_image: float = 0.0
    drop_trailing_image: bool = False
    drop_given_image: float = 0.0
    subject_background: float = 0.0
    subject_crop: float = 1.0
    placeholders: tuple[str, ...] = ("<image>", "[IMG]", "[/IMG]", "[USER]", "[ASSISTANT]")
    chat: ChatConfig = field(default_factory=ChatConfig)

    def __post_init__(self) -> None:
        check_range(self, "num_tokens", "group", "open_rows", "max_text_tokens", least=1)
        check_range(self, "min_images", "max_images", least=0)
        check_range(self, "image_first", "drop_single_image", "drop_given_image", "subject_background", least=0, most=1)
        check_range(self, "subject_crop", above=0, most=1)
        if self.max_images is not None and self.max_images < self.min_images:
            raise ConfigError(
                f"packing.max_images is {self.max_images}, less than min_images {self.min_images}: no document remains"
            )
        if self.drop_single_image and self.window != "random":
            raise ConfigError("packing.drop_single_image leaves out random stretches: set packing.window to random")
        if self.ask_image_tokens != "none" and self.image_begin is None:
            raise ConfigError("packing.ask_image_tokens asks for packing.image_begin, which is not given")

    def takes(self, similarity: float | None) -> bool:
        """Whether an image fits its text well enough, as far as the data says."""
        return self.min_similarity is None or similarity is None or similarity >= self.min_similarity

    @property
    def special(self) -> tuple[str, ...]:
        """Names of the tokens that documents get."""
        return tuple(t for t in (self.bos, self.eos, self.image_begin, self.image_end) if t is not None)
