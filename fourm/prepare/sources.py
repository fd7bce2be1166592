"""What is stored below a folder: its data sets, the sources of each, and what modality a source holds."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fourm.catalog import MODALITIES
from fourm.data.decode import decoder_of
from fourm.data.images import open_image
from fourm.data.paths import list_tars
from fourm.data.shards import CROPS, FACTS_FILE, NUM_SHARDS, check_crops, crops_digest, read_source_facts, shard_path
from fourm.data.transforms import is_image
from fourm.errors import ConfigError, DataError
from fourm.layouts import Discrete, Grid
from fourm.layouts import Sequence as Text
from fourm.modality import Modality, from_dict
from fourm.prepare.labelers.configs import CropSettingsConfig
from fourm.prepare.photos.recipe import IMAGE, ORIGIN

_ORIGIN = Modality(ORIGIN, Text(1), Discrete(1), source=ORIGIN, decode="structured", direction="input")
_OWN = {CROPS: CropSettingsConfig().modality(CROPS), ORIGIN: _ORIGIN}
"""What the toolkit's own commands store beside modalities."""


@dataclass(frozen=True)
class StoredSource:
    """One folder of shards.

    Args:
        root: folder of the data set.
        source: its folder below that.
        tars: its shards, name -> file, in order.
        facts: what `source.json` says.
        modality: what its files hold; None where that is not known.
        faults: what is wrong with the source as a whole.
    """

    root: Path
    source: str
    tars: Mapping[str, Path]
    facts: Mapping[str, Any] = field(default_factory=dict)
    modality: Modality | None = None
    faults: tuple[str, ...] = ()

    @property
    def num_shards(self) -> int:
        """How many shards it should have; 0 where nothing is said of it."""
        number = self.facts.get(NUM_SHARDS)
        return number if isinstance(number, int) else 0

    @property
    def expected(self) -> list[str]:
        """Names of the shards it should have."""
        return [shard_path(self.root, self.source, shard).name for shard in range(self.num_shards)]


def find_data_sets(out: Path) -> dict[str, list[StoredSource]]:
    """The data sets in a folder: itself, or those in its subfolders, as `train` and `test` are.

    Returns:
        name, empty for the folder itself -> its sources, the photograph first.

    Raises:
        DataError: if there is none.
    """
    if not out.is_dir():
        raise DataError(f"there is no folder {out}; it is relative to where the command runs")
    if sources := stored_sources(out):
        return {"": sources}
    found = {folder.name: sources for folder in _folders(out) if (sources := stored_sources(folder))}
    if not found:
        raise DataError(
            f"{out} holds no shards; expected {out}/<source>/shard-00000.tar. `fourm prepare` makes them, of files in "
            "folders `fourm prepare shards`"
        )
    return found


def stored_sources(root: Path) -> list[StoredSource]:
    """The sources of a data set: folders with shards, or whose facts tell of some. The photograph comes first."""
    sources = [source for folder in _folders(root) if (source := _open(root, folder.name)) is not None]
    return sorted(sources, key=_rank)


def photograph(sources: Sequence[StoredSource]) -> StoredSource | None:
    """The source that shows what all others say something of; None if no source is an image."""
    first = next(iter(sources), None)
    return first if first is not None and _rank(first)[0] < _NO_IMAGE else None


_NO_IMAGE = 3


def _rank(source: StoredSource) -> tuple[int, str]:
    """Its place among the sources: photographs, grey pictures that stand for them, other maps, all else."""
    name, modality = source.source, source.modality
    if modality is None or not is_image(modality):
        return _NO_IMAGE, name
    return (0 if name == IMAGE else 1 if name == "image" or modality.decode == "image" else 2), name


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _open(root: Path, name: str) -> StoredSource | None:
    tars = {tar.name: tar for tar in list_tars(root / name)}
    faults: list[str] = []
    facts: dict[str, Any] = {}
    modality = None
    try:
        facts = read_source_facts(root, name)
        number = facts.get(NUM_SHARDS, 0)
        if not tars and not number:
            return None
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            faults.append(
                f"{NUM_SHARDS} in {FACTS_FILE} is {number!r:.80}; expected how many shards there are. Run the command "
                "that makes this source again"
            )
        modality = _modality(name, facts, tars)
        if modality is not None:
            decoder_of(modality)
        if CROPS in facts:
            check_crops(root, name, crops_digest(root))
    except ConfigError as error:
        modality = None
        faults.append(str(error))
    except DataError as error:
        faults.append(str(error))
    return StoredSource(root, name, tars, facts, modality, tuple(faults))


def _modality(name: str, facts: Mapping[str, Any], tars: Mapping[str, Path]) -> Modality | None:
    """What a source holds: as its facts say; as its name says, in the toolkit's own data and in the catalog.

    Raises:
        ConfigError: if the facts make no sense.
    """
    said = facts.get("modality")
    if isinstance(said, Mapping):
        values = {key: value for key, value in said.items() if key != "name"}
        return from_dict(str(said.get("name", name)), values)
    if "tokenizer_hash" in facts:
        try:
            grid, vocabulary = Grid(*map(int, facts["grid"])), Discrete(int(facts["vocab_size"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{FACTS_FILE} of tokens has no grid and vocab_size that make sense ({error}): run `fourm tokenize` "
                "again"
            ) from error
        return Modality(name, grid, vocabulary, source=name, decode="tokens")
    if name in _OWN:
        return _OWN[name]
    known = [m for m in MODALITIES.values() if m.source == name and m.decode != "tokens" and m.teacher is None]
    size = _image_size(tars) if len(known) > 1 else None
    # Among several, such as rgb@64 and rgb@224, the one for the images nearest in size; the first where that is not
    # known.
    return min(known, key=lambda m: abs(min(m.grid.image_size) - size) if size and m.is_grid else 0, default=None)


def _image_size(tars: Mapping[str, Path]) -> int | None:
    """Pixels of the shorter side of the first image; None if it cannot be read."""
    for path in tars.values():
        try:
            with tarfile.open(path, "r:") as tar:
                member = tar.next()
                file = tar.extractfile(member) if member is not None else None
                if file is not None:
                    with open_image(file.read()) as image:
                        return min(image.size)
        except Exception:  # image libraries raise anything; what is damaged is told elsewhere
            continue
    return None


def as_size(num_bytes: int) -> str:
    """`1.2 GB` for so many bytes."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
