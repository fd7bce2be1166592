"""Concatenated tables: ids, positions and heads of all modalities side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.modality import Modality, ModalitySet
from fourm.nn.cross_entropy import Asked, linear_cross_entropy
from fourm.nn.init import fill_normal, fill_xavier
from fourm.nn.position import sincos


class RowMap:
    """Where each modality's rows lie in a concatenated table.

    Args:
        modalities: all modalities of the model; they number the rows of `offsets`.
        sizes: modality name -> number of rows; modalities without an entry have none.
    """

    def __init__(self, modalities: ModalitySet, sizes: dict[str, int]) -> None:
        self.rows: dict[str, tuple[int, int]] = {}
        offsets, total = [], 0
        for name in modalities:
            size = sizes.get(name, 0)
            offsets.append(total if size else 0)
            if size:
                self.rows[name] = (total, total + size)
            total += size
        self.total = total
        self.offsets = offsets

    def slice(self, name: str) -> slice:
        return slice(*self.rows[name])


class PositionTable(nn.Module):
    """Position embeddings of all modalities in one table: fixed sine-cosine rows and learned ones.

    Args:
        modalities: all modalities of the model.
        used: the modalities that have positions here.
        dim: width.
        std: deviation of new learned rows.
        targets: positions beyond a sequence's `num_target_positions` fall back to 0 (published decoders).
    """

    def __init__(
        self, modalities: ModalitySet, used: Iterable[Modality], dim: int, std: float, *, targets: bool = False
    ) -> None:
        super().__init__()
        self.modalities, self.used, self.dim, self.std = modalities, tuple(used), dim, std
        fixed = [m for m in self.used if m.positions != "learned"]
        learned = [m for m in self.used if m.positions == "learned"]
        self.map = RowMap(ModalitySet([*fixed, *learned]), {m.name: m.layout.num_positions for m in (*fixed, *learned)})
        self.num_fixed = sum(m.layout.num_positions for m in fixed)
        self.learned = nn.Parameter(torch.empty(self.map.total - self.num_fixed, dim)) if learned else None
        self.register_buffer("fixed", torch.empty(self.num_fixed, dim), persistent=False)
        starts = [self.map.rows[n][0] if n in self.map.rows else 0 for n in modalities]
        limits = [self._limit(modalities[n], targets) for n in modalities]
        self.starts, self.limits = starts, limits
        self.register_buffer("start", torch.empty(len(starts), dtype=torch.int64), persistent=False)
        self.register_buffer("limit", torch.empty(len(starts), dtype=torch.int64), persistent=False)

    @staticmethod
    def _limit(modality: Modality, targets: bool) -> int:
        limit = getattr(modality.layout, "num_target_positions", None) if targets else None
        return limit or modality.layout.num_positions

    def learned_rows(self, name: str) -> slice | None:
        """Rows of `learned` that belong to a modality; None if its positions are fixed, or not here."""
        start, stop = (edge - self.num_fixed for edge in self.map.rows.get(name, (-1, -1)))
        return slice(start, stop) if start >= 0 else None

    def table_of(self, name: str) -> Tensor:
        """(num_positions, dim) fixed rows of a modality, computed anew."""
        modality = self.modalities[name]
        return sincos(modality.layout, self.dim, columns_first=modality.positions == "sincos_xy")

    def fill_tables(self) -> None:
        """Compute the fixed rows, and where each modality's rows begin and end."""
        self.start, self.limit = torch.tensor(self.starts), torch.tensor(self.limits)
        fixed = [self.table_of(m.name) for m in self.used if m.positions != "learned"]
        self.fixed = torch.cat(fixed) if fixed else torch.empty(0, self.dim)

    def fill_parameters(self, generator: torch.Generator) -> None:
        """Draw the learned rows."""
        if self.learned is not None:
            fill_normal(self.learned, generator, self.std)

    def forward(self, modality: Tensor, position: Tensor) -> Tensor:
        """(B, N) modality numbers and positions -> (B, N, dim)."""
        index = modality.clamp(min=0)
        row = self.start[index] + torch.where(position < self.limit[index], position, 0)  # type: ignore[index,operator]
        if self.learned is None:
            return F.embedding(row, self.fixed)  # type: ignore[arg-type]
        learned = F.embedding((row - self.num_fixed).clamp(min=0), self.learned)
        if not self.num_fixed:
            return learned
        fixed = F.embedding(row.clamp(max=self.num_fixed - 1), self.fixed)  # type: ignore[arg-type]
        return torch.where((row < self.num_fixed)[..., None], fixed, learned)


class TokenTable(nn.Module):
    """Token embeddings (or output weights) of several discrete modalities, concatenated.

    Args:
        modalities: all modalities of the model.
        used: the discrete modalities with rows here.
    """

    def __init__(self, modalities: ModalitySet, used: Iterable[Modality], dim: int, std: float) -> None:
        super().__init__()
        self.map = RowMap(modalities, {m.name: m.vocab_size for m in used})
        # Places without an id read an arbitrary row, so there is always one.
        self.weight = nn.Parameter(torch.empty(max(self.map.total, 1), dim))
        self.std = std
        self.register_buffer("offset", torch.empty(len(self.map.offsets), dtype=torch.int64), persistent=False)

    def fill_tables(self) -> None:
        """Say where each modality's rows begin."""
        self.offset = torch.tensor(self.map.offsets)

    def fill_parameters(self, generator: torch.Generator) -> None:
        """Draw all rows."""
        fill_normal(self.weight, generator, self.std)

    def forward(self, modality: Tensor, ids: Tensor) -> Tensor:
        """(B, N) modality numbers and ids -> (B, N, dim); places without an id give an arbitrary row."""
        return F.embedding(self.offset[modality.clamp(min=0)] + ids.clamp(min=0), self.weight)  # type: ignore[index]

    def rows(self, name: str) -> Tensor:
        """(vocab_size, dim) weights of one modality."""
        return self.weight[self.map.slice(name)]

    def parts(self) -> dict[str, Tensor]:
        """(vocab_size, dim) weights of each modality, split at once.

        Each slice of its own would have a gradient as large as the whole table, zero but for its rows.
        """
        sizes = [stop - start for start, stop in self.map.rows.values()]
        return dict(zip(self.map.rows, self.weight.split(sizes)))


class CodeTable(TokenTable):
    """Ids embedded by frozen codes and one learned matrix, which all of them share (DeLVM, Guo et al. 2024).

    Args:
        modalities: all modalities of the model.
        used: the discrete modalities with rows here.
        code_dim: numbers of a code.
        dim, std: width, and deviation of the new matrix.
    """

    def __init__(self, modalities: ModalitySet, used: Iterable[Modality], code_dim: int, dim: int, std: float) -> None:
        super().__init__(modalities, used, code_dim, std)
        self.weight.requires_grad_(False)
        self.projection = nn.Parameter(torch.empty(dim, code_dim))

    def fill_parameters(self, generator: torch.Generator) -> None:
        """Draw the matrix; the codes are normal until a tokenizer's take their place."""
        fill_normal(self.weight, generator, 1.0)
        fill_normal(self.projection, generator, self.std)

    def forward(self, modality: Tensor, ids: Tensor) -> Tensor:
        """(B, N) modality numbers and ids -> (B, N, dim)."""
        return F.linear(super().forward(modality, ids), self.projection)

    def folded(self) -> Tensor:
        """(rows, dim) the embeddings of all ids, as one table."""
        return F.linear(self.weight, self.projection)


class Heads(TokenTable):
    """Output weights of all output modalities, concatenated; without biases.

    Args:
        embedded: modalities whose rows also embed the decoder's ids (tied weights); they start as embeddings do.
        own_std: deviation of the other rows; None: Xavier-uniform.
    """

    forward_methods = ("scores", "cross_entropy", "logits")
    """Besides `forward`, what uses the weights: where they are spread over ranks, they are gathered around these."""

    def __init__(
        self,
        modalities: ModalitySet,
        dim: int,
        std: float,
        embedded: Iterable[Modality] = (),
        own_std: float | None = None,
    ) -> None:
        super().__init__(modalities, modalities.outputs, dim, std)
        self.embedded, self.own_std = {m.name for m in embedded}, own_std
        if not self.map.total:  # pixels alone are predicted: ranks would wait for the gradient of the row
            self.weight.requires_grad_(False)

    def fill_parameters(self, generator: torch.Generator) -> None:
        """Draw rows as linear layers are: by default, logits of a normalised hidden state are of about unit size."""
        super().fill_parameters(generator)
        for name in self.map.rows:
            if name in self.embedded:
                continue
            if self.own_std is None:
                fill_xavier(self.rows(name), generator)
            else:
                fill_normal(self.rows(name), generator, self.own_std)

    def scores(self, hidden: Tensor, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """(B * N, dim) hidden states and modality -> (n_m,) rows of them -> modality -> (n_m, vocab_size) logits."""
        if not rows:
            return {}
        weights = self.parts()
        return {name: F.linear(hidden[own], weights[name]) for name, own in rows.items()}

    def cross_entropy(
        self, hidden: Tensor, rows: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """As `scores`, but of (n_m,) asked ids the (n_m,) cross-entropy, without holding all logits."""
        asked = [Asked(*self.map.rows[name], own, targets[name]) for name, own in rows.items()]
        return dict(zip(rows, linear_cross_entropy(hidden, self.weight, asked)))

    def logits(self, name: str, hidden: Tensor) -> Tensor:
        """(..., dim) -> (..., vocab_size) of one modality."""
        return F.linear(hidden, self.rows(name))


class ModalityEmbedding(nn.Module):
    """One learned vector per modality."""

    def __init__(self, num_modalities: int, dim: int, std: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_modalities, dim))
        self.std = std

    def fill_parameters(self, generator: torch.Generator) -> None:
        """Draw all vectors."""
        fill_normal(self.weight, generator, self.std)

    def forward(self, modality: Tensor) -> Tensor:
        """(B, N) modality numbers -> (B, N, dim)."""
        return F.embedding(modality.clamp(min=0), self.weight)
