"""The any-to-any model: embedders, an encoder, a decoder attending to it, a head per output modality (4M, sec. 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from fourm.errors import ConfigError
from fourm.modality import ModalitySet
from fourm.models.configs import MultimodalConfig
from fourm.models.embed import Embedded, InputEmbedder, TargetEmbedder, patch_projections
from fourm.models.feeders import build_feeders
from fourm.models.tables import CodeTable, Heads, ModalityEmbedding, PositionTable, TokenTable
from fourm.nn.init import fill_normal, initialise
from fourm.nn.trunk import KVCache, Trunk
from fourm.patterns import AttentionPattern, Runs
from fourm.registry import implementation
from fourm.rng import torch_seed
from fourm.tokens import Example, TokenBatch


class Context(NamedTuple):
    """What the decoder attends to.

    Args:
        hidden: (B, K, dim).
        valid: (B, K) bool, False on padding; None: there is none.
        runs: of the table it was made of, where they are known.
        capacity: that of its pattern.
    """

    hidden: Tensor
    valid: Tensor | None
    runs: Runs | None = None
    capacity: int | None = None


class Multimodal(nn.Module):
    """Encoder-decoder over any set of modalities, or, with `encoder_depth: 0`, a decoder that reads its own table.

    Args:
        modalities: what it reads and predicts.
        config: its sizes and options.
        seed: of the initial weights.

    Raises:
        ConfigError: if there is nothing to read or nothing to predict.
    """

    def __init__(self, modalities: ModalitySet, config: MultimodalConfig, seed: int = 0) -> None:
        super().__init__()
        vectors = [m for m in modalities.values() if config.vector_head is not None and m.is_predicted]
        if not modalities.inputs or not (modalities.outputs or vectors):
            raise ConfigError(
                f"a model needs at least one input and one output modality; given: {', '.join(modalities) or 'none'}"
            )
        self.modalities, self.config = modalities, config
        dim, std, alone = config.dim, config.embedding_std, not config.encoder_depth
        input_modality = ModalityEmbedding(len(modalities), dim, std) if config.modality_embeddings else None
        embedded = [m for m in modalities.outputs if alone or not m.is_grid] if config.tie_heads else []
        self.heads = Heads(modalities, dim, std, embedded=embedded, own_std=config.head_std)
        self.input_embedder = InputEmbedder(
            modalities, dim, std, input_modality, positions=config.position_tables,
            table=self._table() if alone else None,
            projections=patch_projections(modalities, config), feeders=build_feeders(modalities, config),
        )  # fmt: skip
        self.target_embedder: TargetEmbedder | None = None if alone else self._target_embedder(input_modality)
        self.registers = (
            nn.Parameter(torch.empty(config.num_register_tokens, dim)) if config.num_register_tokens else None
        )
        self.encoder = None if alone else Trunk(config.trunk(config.encoder_depth, cross_attention=False))
        self.context_projection = None if alone else nn.Linear(dim, dim)
        self.decoder = Trunk(config.trunk(config.decoder_depth, cross_attention=not alone))
        self.vector_heads = nn.ModuleDict(
            {
                m.name: implementation(config.vector_head.target)(m, dim, config.vector_head)
                for m in modalities.values()
                if config.vector_head is not None and m.is_predicted and not m.is_discrete
            }
        )
        if self.heads.weight.device.type != "meta":
            initialise(self, seed, std=config.init_std)

    def _target_embedder(self, input_modality: ModalityEmbedding | None) -> TargetEmbedder:
        """What embeds the asked tokens of a decoder that attends to an encoder."""
        config, modalities = self.config, self.modalities
        own = config.modality_embeddings and not config.share_modality_embeddings
        return TargetEmbedder(
            modalities,
            config.dim,
            config.embedding_std,
            ModalityEmbedding(len(modalities), config.dim, config.embedding_std) if own else input_modality,
            self.heads if config.tie_heads else None,
            positions=config.position_tables,
        )

    def _table(self) -> TokenTable | None:
        """What embeds the ids of a decoder alone: frozen codes, the heads, or None for rows of their own.

        Raises:
            ConfigError: if the heads lack something that is read.
        """
        config, read = self.config, [m for m in self.modalities.inputs if m.is_discrete]
        if config.code_dim is not None:
            return CodeTable(self.modalities, read, config.code_dim, config.dim, config.embedding_std)
        if not config.tie_heads:
            return None
        missing = [m.name for m in read if not m.is_output]
        if missing:
            raise ConfigError(
                f"model.tie_heads embeds ids by the weights of their heads, but {', '.join(missing)} has none, being "
                "an input alone: set model.tie_heads to false"
            )
        return self.heads

    @property
    def tables(self) -> dict[str, TokenTable]:
        """The concatenated tables by side; an exported model notes whose rows are where."""
        return {"input": self.input_embedder.table, "output": self.heads}

    def parameters_of(self, modality: str) -> dict[str, slice | None]:
        """Parameter name -> the rows that belong to a modality; None: all of it."""
        found: dict[str, slice | None] = {}
        for path, module in self.named_modules():
            if isinstance(module, TokenTable) and modality in module.map.rows:
                found[f"{path}.weight"] = module.map.slice(modality)
            elif isinstance(module, PositionTable) and (rows := module.learned_rows(modality)) is not None:
                found[f"{path}.learned"] = rows
            elif isinstance(module, ModalityEmbedding):
                number = self.modalities.index(modality)
                found[f"{path}.weight"] = slice(number, number + 1)
        if modality in self.input_embedder.projections:
            projection = self.input_embedder.projections[modality]
            names = [name for name, _ in projection.named_parameters()]
            found |= {f"input_embedder.projections.{modality}.{name}": None for name in names}
        return found

    def fill_parameters(self, generator: torch.Generator) -> None:
        """Draw the register tokens."""
        if self.registers is not None:
            fill_normal(self.registers, generator, self.config.embedding_std)

    def forward(self, example: Example, *, cross_entropy: bool = False) -> dict[str, Tensor]:
        """Score what an example asks.

        Args:
            example: what is shown and asked.
            cross_entropy: of asked ids give the cross-entropy alone, so that logits are never held all at once.

        Returns:
            output modality -> (n_m, vocab_size) logits, or (n_m,) cross-entropy, or (n_m, dim) vectors, in the order of
                the decoder's `target_rows`; and where the model makes the vectors it is asked for,
                `target_of(modality)` -> these.
        """
        decoder = example.decoder
        if self.encoder is not None:
            hidden = self.decode(decoder, self.encode(cast(TokenBatch, example.encoder)))
            return self.scores(hidden.flatten(0, 1), decoder, cross_entropy=cross_entropy)
        embedded = self.input_embedder(decoder)
        hidden = self._read(embedded, decoder)
        scores = self.scores(hidden.flatten(0, 1), decoder, cross_entropy=cross_entropy)
        return {**scores, **embedded.targets(decoder)}

    def scores(self, hidden: Tensor, batch: TokenBatch, *, cross_entropy: bool = False) -> dict[str, Tensor]:
        """Answers of the heads, by modality, from the hidden states (B * N, dim) of a table; see `forward`.

        Raises:
            ConfigError: if vectors are asked for which there is no head.
        """
        rows = {n: r for n, r in batch.target_rows.items() if n in self.heads.map.rows}
        if cross_entropy:
            found = self.heads.cross_entropy(hidden, rows, {name: batch.targets(name) for name in rows})
        else:
            found = self.heads.scores(hidden, rows)
        for name in batch.target_rows.keys() - found.keys():
            if name not in self.vector_heads:
                raise ConfigError(
                    f"the objective asks for vectors of '{name}', for which the model has no head: set "
                    f"model.vector_head, and modalities.{name}.direction to both"
                )
            own = batch.target_rows[name]
            found[name] = self.vector_heads[name](hidden[own], batch.position.flatten()[own])
        return found

    @property
    def is_ordered(self) -> bool:
        """Whether its encoder reads block after block."""
        return self.config.context == "ordered"

    def encode(self, batch: TokenBatch, cache: KVCache | None = None) -> Context:
        """Encode a token table; the registers come first in what it gives.

        Args:
            batch: what is given; with a cache, the next block of it, with a pattern whose keys are all tokens so far.
            cache: of an ordered context, with the keys and values of earlier blocks. The registers are part of the
                first.

        Raises:
            ConfigError: if the model has no encoder.
        """
        if self.encoder is None or self.context_projection is None:
            raise ConfigError(
                "this model has no encoder (encoder_depth 0): it reads what is given in the decoder's table"
            )
        content, place, _ = self.input_embedder(batch)
        x, attention, valid = content + place, batch.attention, None if batch.attention is None else batch.valid
        if self.registers is not None and (cache is None or not cache.length):
            count = self.registers.shape[0]
            x = torch.cat([self.registers.expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1)
            place = nn.functional.pad(place, (0, 0, count, 0))
            valid = None if valid is None else nn.functional.pad(valid, (count, 0), value=True)
            if attention is None and self.is_ordered:
                attention = AttentionPattern.full(batch.valid)
            attention = None if attention is None else attention.prepend(count, block=self.is_ordered)
        hidden = cast(Tensor, self.encoder(x, attention=attention, cache=cache))
        context = Context(self.context_projection(hidden) + place, valid)
        if isinstance(attention, AttentionPattern):
            context = context._replace(runs=attention.runs, capacity=attention.capacity)
        return context

    def decode(
        self,
        batch: TokenBatch,
        context: Context | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Decode a token table against a context, or by itself.

        Args:
            batch: the asked tokens; with a cache of its own tokens, only the new ones, with a pattern whose keys are
                all tokens so far. Without an encoder, what is read is in it too.
            context: from `encode`; None where there is no encoder.
            cache: keys and values of earlier decoding steps.

        Returns:
            (B, N, dim) hidden states.
        """
        if self.target_embedder is None or context is None:
            return self._read(self.input_embedder(batch), batch, cache)
        x = self.target_embedder(batch)
        known = cache is not None and cache.cross is not None
        cross = None if known else self._cross(batch, context)
        return cast(
            Tensor, self.decoder(x, attention=batch.attention, context=context.hidden, cross=cross, cache=cache)
        )

    def _read(self, embedded: Embedded, batch: TokenBatch, cache: KVCache | None = None) -> Tensor:
        """(B, N, dim) hidden states of a decoder alone."""
        x = embedded.content + embedded.place
        return cast(Tensor, self.decoder(x, attention=batch.attention, cache=cache))

    @staticmethod
    def _cross(batch: TokenBatch, context: Context) -> AttentionPattern | None:
        if context.valid is None and batch.attention is None:
            return None
        keys = context.valid
        if keys is None:
            keys = torch.ones(context.hidden.shape[:2], dtype=torch.bool, device=context.hidden.device)
        ours = batch.attention
        if ours is None:
            return AttentionPattern.cross(batch.valid, keys)
        runs = Runs.cross(ours.runs, context.runs) if ours.runs is not None and context.runs is not None else None
        return AttentionPattern.cross(
            batch.valid, keys, runs=runs, capacity=ours.capacity, key_capacity=context.capacity
        )

    def logits(
        self, given: Mapping[str, Mapping[str, Tensor]], asked: Mapping[str, Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Score any modalities given any others; see `fourm.models.ask` for the shapes.

        Returns:
            asked modality -> (B, m, vocab_size), (B, m - 1, vocab_size) for sequences.
        """
        from fourm.models.ask import ask, given_table

        decoder, columns = ask(asked, self.modalities)
        table = given_table(
            given, self.modalities, decoder.num_samples, decoder.modality.device, ordered=self.is_ordered
        )
        hidden = self.decode(decoder, self.encode(table))
        return {name: self.heads.logits(name, hidden[:, start:stop]) for name, (start, stop) in columns.items()}

    @torch.no_grad()
    def set_codes(self, codebooks: Mapping[str, Tensor]) -> None:
        """Take the frozen codes that embed ids (`code_dim`) from their tokenizers.

        Args:
            codebooks: modality -> (vocab_size, code_dim).

        Raises:
            ConfigError: if one is missing, or of another size.
        """
        table = self.input_embedder.table
        for name in table.map.rows:
            rows = table.rows(name)
            if name not in codebooks or codebooks[name].shape != rows.shape:
                found = tuple(codebooks[name].shape) if name in codebooks else "no tokenizer with a codebook"
                raise ConfigError(
                    f"model.code_dim embeds '{name}' by codes of shape {tuple(rows.shape)}; found {found}: name its "
                    f"tokenizer under tokenizers, and set code_dim and modalities.{name}.content.vocab_size to its own"
                )
            rows.copy_(codebooks[name])

    @torch.no_grad()
    def fill_from_codebooks(self, codebooks: Mapping[str, Tensor], seed: int) -> None:
        """Start embeddings and heads of token modalities from their tokenizers' codebooks, by one random matrix each.

        Near codes then start with near embeddings, which short runs would otherwise have to learn.

        Args:
            codebooks: modality -> (vocab_size, d).
            seed: of the matrices.
        """
        for name, codebook in codebooks.items():
            generator = torch.Generator().manual_seed(torch_seed(seed, "codebook", name))
            codes = codebook.detach().float().cpu()
            codes = (codes - codes.mean(0)) / codes.std(0).clamp(min=1e-6)
            for table in (self.input_embedder.table, self.heads):
                if name in table.map.rows:
                    rows = table.rows(name)
                    mapped = codes @ torch.randn(codes.shape[1], rows.shape[1], generator=generator)
                    rows.copy_(mapped * (rows.std() / mapped.std()))
