"""The networks of the study: a transformer of one block that reads x ∘ y = □ and answers at □, and an MLP."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nap
from nap.graph import EPS, ParameterSpec
from studies.grokking.config import GrokkingConfig

LENGTH = 5
"""The tokens x, ∘, y, = and □; x stands at position 0, y at 2, the others are the same in every example."""
POSITION_STD = 0.02


class Transformer(nn.Module):
    """One attention block without biases, with absolute learned positions (arXiv 2507.20057, Table 1).

    int64 pairs [B, 2] -> logits [B, size] at the last position. Only values that reach that position are computed: its
    query is one vector for all examples, and keys, values and scores are computed once for each (token, position), then
    gathered. The function is that of `plain`, at a sixth of the work. `norms` names the members of
    `config.NORM_POSITIONS` that get an RMSNorm; `nap.normalize` adds the one before the nonlinearity.
    """

    def __init__(
        self, size: int, norms: tuple[str, ...] = (), *, width: int = 128, heads: int = 4, hidden: int = 512
    ) -> None:
        super().__init__()
        self.size, self.width, self.split = size, width, (heads, width // heads)

        def norm(position: str, features: int = width) -> nn.Module:
            return nn.RMSNorm(features, eps=EPS) if position in norms else nn.Identity()

        self.tokens = nn.Embedding(size + 3, width)  # the last three are ∘, = and □
        self.positions = nn.Embedding(LENGTH, width)
        self.embedding_norm = norm("embedding")
        self.attention_norm = norm("attention")
        self.query = nn.Linear(width, width, bias=False)
        self.query_norm = norm("query", width // heads)
        self.key = nn.Linear(width, width, bias=False)
        self.key_norm = norm("key", width // heads)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.attention_output_norm = norm("attention-output")
        self.mlp_norm = norm("mlp")
        self.up = nn.Linear(width, hidden, bias=False)
        self.activation = nn.ReLU()
        self.down = nn.Linear(hidden, width, bias=False)
        self.mlp_output_norm = norm("mlp-output")
        self.final_norm = norm("final")
        self.head = nn.Linear(width, size, bias=False)
        token, position = torch.arange(size), torch.zeros(size, dtype=torch.long)
        rows = torch.cat([position, position + 2, torch.tensor([1, 3, 4])])
        self.register_buffer("row_tokens", torch.cat([token, token, size + torch.arange(3)]), persistent=False)
        self.register_buffer("row_positions", rows, persistent=False)

    def forward(self, pairs: Tensor) -> Tensor:
        rows = self.rows()
        mixed = self.mix(self.attention_norm(rows), pairs)
        return self.read(rows[-1] + self.attention_output_norm(self.output(mixed)))

    def rows(self) -> Tensor:
        """The residual stream before attention of each (token, position): x, y, ∘, =, □; [2 size + 3, width]."""
        return self.embedding_norm(self.tokens(self.row_tokens) + self.positions(self.row_positions))

    def scores(self, normed: Tensor) -> Tensor:
        """How much the last position attends to each row, before softmax: [rows, width] -> [rows, heads]."""
        query = self.query_norm(self.query(normed[-1]).unflatten(-1, self.split)) / math.sqrt(self.split[1])
        return (self.key_norm(self.key(normed).unflatten(-1, self.split)) * query).sum(-1)

    def mix(self, normed: Tensor, pairs: Tensor) -> Tensor:
        """The values that the last position takes, all heads side by side: [rows, width], [B, 2] -> [B, width]."""
        values, scores, width = self.value(normed), self.scores(normed), self.width
        table = torch.cat([values, scores], -1)
        x, y = F.embedding(pairs[:, 0], table), F.embedding(pairs[:, 1] + self.size, table)
        fixed = scores[-3:].T.expand(pairs.size(0), -1, -1)
        weights = torch.cat([fixed, x[:, width:, None], y[:, width:, None]], -1).softmax(-1)
        mixed = torch.einsum("bhj,jhd->bhd", weights[..., :3], values[-3:].unflatten(-1, self.split))
        mixed = mixed + weights[..., 3:4] * x[:, :width].unflatten(-1, self.split)
        mixed = mixed + weights[..., 4:] * y[:, :width].unflatten(-1, self.split)
        return mixed.flatten(-2)

    def read(self, stream: Tensor) -> Tensor:
        """From the residual stream behind attention to logits."""
        hidden = self.activation(self.up(self.mlp_norm(stream)))
        return self.head(self.final_norm(stream + self.mlp_output_norm(self.down(hidden))))

    def attention_entropy(self, pairs: Tensor) -> Tensor:
        """Mean entropy over heads and examples of what the last position attends to, in nats; log 5 at most."""
        scores = self.scores(self.attention_norm(self.rows()))
        x, y = scores[pairs[:, 0]], scores[pairs[:, 1] + self.size]
        log = torch.stack([x, y, *(row.expand_as(x) for row in scores[-3:])], -1).log_softmax(-1)
        return -(log.exp() * log).sum(-1).mean()

    def plain(self, pairs: Tensor) -> Tensor:
        """The same function as textbooks write it: every position of every example."""
        x, y = pairs.unbind(1)
        signs = [torch.full_like(x, self.size + i) for i in range(3)]
        tokens = torch.stack([x, signs[0], y, signs[1], signs[2]], 1)
        stream = self.embedding_norm(self.tokens(tokens) + self.positions.weight)
        normed = self.attention_norm(stream)
        query, key, value = (
            layer(normed).unflatten(-1, self.split).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(self.query_norm(query), self.key_norm(key), value)
        return self.read(stream + self.attention_output_norm(self.output(mixed.transpose(1, 2).flatten(-2))))[:, -1]


class MLP(nn.Module):
    """Embeddings of x and y side by side, two hidden layers, no biases: int64 pairs [B, 2] -> logits [B, size].

    The first layer sees only `size` different x and y, so each half of it is applied to the table, then gathered.
    """

    def __init__(self, size: int, *, width: int = 128, hidden: int = 512) -> None:
        super().__init__()
        self.x, self.y = nn.Embedding(size, width), nn.Embedding(size, width)
        self.first_x, self.first_y = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.activation1 = nn.ReLU()
        self.second = nn.Linear(hidden, hidden, bias=False)
        self.activation2 = nn.ReLU()
        self.head = nn.Linear(hidden, size, bias=False)
        self.register_buffer("every", torch.arange(size), persistent=False)

    def forward(self, pairs: Tensor) -> Tensor:
        x = F.embedding(pairs[:, 0], self.first_x(self.x(self.every)))
        y = F.embedding(pairs[:, 1], self.first_y(self.y(self.every)))
        return self.head(self.activation2(self.second(self.activation1(x + y))))

    def plain(self, pairs: Tensor) -> Tensor:
        """The same function as textbooks write it."""
        both = torch.cat([self.x(pairs[:, 0]), self.y(pairs[:, 1])], -1)
        first = both @ torch.cat([self.first_x.weight, self.first_y.weight], 1).T
        return self.head(self.activation2(self.second(self.activation1(first))))


def make_model(config: GrokkingConfig, size: int, seed: int) -> Transformer | MLP:
    """The network of the settings, drawn from normals of deviation 1/sqrt(inputs), and 0.02 for the positions.

    The position is a small part of a token's initial embedding, so the transformer soon learns that order does not
    matter.
    """
    normalized = config.norm == "rms"
    if config.model == "mlp":
        model: Transformer | MLP = MLP(size)
    else:
        model = Transformer(size, config.norm_positions if normalized else ())
    generator = torch.Generator().manual_seed(seed)
    for part in model.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            std = POSITION_STD if part is getattr(model, "positions", None) else part.weight.shape[1] ** -0.5
            part.parameter_spec = ParameterSpec(draw=partial(_draw, std=std))  # type: ignore[assignment]
            part.load_state_dict(_draw(part, generator, std))
    if normalized:
        _normalize(model)
    return model


def _draw(layer: nn.Module, generator: torch.Generator, std: float) -> dict[str, Tensor]:
    """Fresh weights, also for a method that re-initialises the layer."""
    return {"weight": torch.empty_like(layer.get_parameter("weight")).normal_(std=std, generator=generator)}


def _normalize(model: Transformer | MLP) -> None:
    """A norm before every ReLU; for the MLP's first, whose input is a sum, `nap.normalize` cannot know the width."""
    if isinstance(model, MLP):
        model.activation1 = nap.NormalizedActivation(nn.RMSNorm(model.second.in_features, eps=EPS), nn.ReLU())  # type: ignore[assignment]
    nap.normalize(model, norm="rms", biases="drop")
