"""Architectures of other packages, each built tiny, on which `nap` is tried.

`python -m tests.nap.architectures` prints what `nap.normalize` makes of each, and the table of docs/nap.md.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

TOKENS, WIDTH = 17, 32
SIZES = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": TOKENS,
    "max_position_embeddings": 40,
    "num_labels": 3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Architecture:
    """A model of another package: how it is built, and what its forward is called with."""

    package: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator())


def tokens(*shape: int, low: int = 3) -> Tensor:
    return torch.randint(low, TOKENS, shape or (3, 8), generator=generator())


def ids() -> dict[str, Tensor]:
    return {"input_ids": tokens()}


def both() -> dict[str, Tensor]:
    return {"input_ids": tokens(), "decoder_input_ids": tokens(3, 5)}


def image(size: int = 32) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"pixel_values": normal(3, 3, size, size)}


def hugging(config: str, model: str, **options: Any) -> Callable[[], nn.Module]:
    """A model of transformers without dropout."""

    def build() -> nn.Module:
        library = importlib.import_module("transformers")
        made = getattr(library, f"{config}Config")(**options)
        return getattr(library, model)(made)

    return build


def causal(name: str, **options: Any) -> Architecture:
    return Architecture("transformers", hugging(name, f"{name}ForCausalLM", **{**SIZES, **options}), ids)


def labelled(name: str, **options: Any) -> Architecture:
    return Architecture("transformers", hugging(name, f"{name}ForSequenceClassification", **{**SIZES, **options}), ids)


def seen(name: str, size: int = 32, **options: Any) -> Architecture:
    """A classifier of images of the size that its options suit; one with stages has no `hidden_size`."""
    sizes = {"image_size": size, "patch_size": 8, "num_labels": 3}
    sizes |= SIZES if not {"depths", "depth_multiplier"} & options.keys() else {}
    model = f"{name}ForImageClassification"
    return Architecture("transformers", hugging(name, model, **{**sizes, **options}), image(size))


def translated(name: str, **options: Any) -> Architecture:
    sizes = {"d_model": WIDTH, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2}
    sizes |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "decoder_start_token_id": 2}
    model = f"{name}ForConditionalGeneration" if name != "Marian" else "MarianMTModel"
    return Architecture("transformers", hugging(name, model, **{**SIZES, **sizes, **options}), both)


GROUPED = {"num_key_value_heads": 1}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
OLD_NAMES = {"n_embd": WIDTH, "n_layer": 2, "n_head": 2, "n_positions": 40, "n_inner": 48}

TRANSFORMERS = {
    "gpt2": Architecture("transformers", hugging("GPT2", "GPT2LMHeadModel", **SIZES, **OLD_NAMES), ids),
    "gptj": causal("GPTJ", **OLD_NAMES, rotary_dim=4),
    "codegen": causal("CodeGen", **{**OLD_NAMES, "n_head": 4}, rotary_dim=4),
    "gpt_neo": causal("GPTNeo", num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]], window_size=4),
    "gpt_neox": causal("GPTNeoX"),
    "llama": causal("Llama", **GROUPED),
    "mistral": causal("Mistral", **GROUPED),
    "qwen2": causal("Qwen2", **GROUPED),
    "qwen3": causal("Qwen3", **GROUPED, head_dim=16),
    "gemma": causal("Gemma", **GROUPED, head_dim=16),
    "gemma2": causal("Gemma2", **GROUPED, head_dim=16),
    "phi": causal("Phi"),
    "phi3": causal("Phi3", **GROUPED),
    "olmo2": causal("Olmo2", **GROUPED),
    "cohere": causal("Cohere", **GROUPED),
    "stablelm": causal("StableLm", **GROUPED),
    "starcoder2": causal("Starcoder2", **GROUPED),
    "persimmon": causal("Persimmon"),
    "falcon": causal("Falcon"),
    "bloom": causal("Bloom", n_layer=2, n_head=2),
    "mpt": causal("Mpt", d_model=WIDTH, n_heads=2, n_layers=2, max_seq_len=40),
    "opt": causal("OPT", ffn_dim=48, word_embed_proj_dim=WIDTH),
    "mixtral": causal("Mixtral", **GROUPED, **EXPERTS),
    "qwen2_moe": causal(
        "Qwen2Moe", **GROUPED, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
        shared_expert_intermediate_size=24,
    ),
    "gpt_oss": causal("GptOss", **GROUPED, **EXPERTS, head_dim=16),
    "mamba": causal("Mamba", state_size=4),
    "rwkv": causal("Rwkv", attention_hidden_size=WIDTH),
    "bert": labelled("Bert"),
    "roberta": labelled("Roberta"),
    "albert": labelled("Albert", embedding_size=16),
    "distilbert": labelled("DistilBert", dim=WIDTH, n_layers=2, n_heads=2, hidden_dim=48),
    "electra": labelled("Electra", embedding_size=16),
    "deberta_v2": labelled("DebertaV2", relative_attention=True, pos_att_type=["p2c", "c2p"]),
    "squeezebert": labelled("SqueezeBert", embedding_size=WIDTH),
    "fnet": labelled("FNet"),
    "modernbert": labelled("ModernBert", cls_token_id=1, sep_token_id=2),
    "t5": Architecture(
        "transformers",
        hugging("T5", "T5ForConditionalGeneration", **SIZES, d_model=WIDTH, d_kv=16, d_ff=48, num_layers=2, num_heads=2,
                decoder_start_token_id=0),
        both,
    ),
    "t5 gated": Architecture(
        "transformers",
        hugging("T5", "T5ForConditionalGeneration", **SIZES, d_model=WIDTH, d_kv=16, d_ff=48, num_layers=2, num_heads=2,
                feed_forward_proj="gated-gelu", decoder_start_token_id=0),
        both,
    ),
    "bart": translated("Bart"),
    "pegasus": translated("Pegasus"),
    "marian": translated("Marian"),
    "whisper": Architecture(
        "transformers",
        hugging("Whisper", "WhisperForConditionalGeneration", **SIZES, d_model=WIDTH, encoder_layers=2,
                decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=48,
                decoder_ffn_dim=48, num_mel_bins=8, max_source_positions=8, max_target_positions=40,
                decoder_start_token_id=2),
        lambda: {"input_features": normal(3, 8, 16), "decoder_input_ids": tokens(3, 5)},
    ),
    "wav2vec2": Architecture(
        "transformers",
        hugging("Wav2Vec2", "Wav2Vec2ForSequenceClassification", **SIZES, conv_dim=[8, 8], conv_stride=[4, 4],
                conv_kernel=[8, 4], num_feat_extract_layers=2, num_conv_pos_embeddings=4,
                num_conv_pos_embedding_groups=2, apply_spec_augment=False, classifier_proj_size=16),
        lambda: {"input_values": normal(3, 400)},
    ),
    "vit": seen("ViT"),
    "deit": seen("DeiT"),
    "dinov2": seen("Dinov2"),
    "beit": seen("Beit"),
    "swin": seen("Swin", patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4),
    "convnext": seen("ConvNext", patch_size=4, hidden_sizes=[8, 16], depths=[1, 2], num_stages=2),
    "convnextv2": seen("ConvNextV2", patch_size=4, hidden_sizes=[8, 16], depths=[1, 2], num_stages=2),
    "resnet": seen("ResNet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic"),
    "regnet": seen("RegNet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=4),
    "bit": seen("Bit", embedding_size=8, hidden_sizes=[16, 32], depths=[1, 1], num_groups=4),
    "mobilenet_v2": seen("MobileNetV2", depth_multiplier=0.25),
    "levit": seen("Levit", 64, patch_size=16, hidden_sizes=[16, 24, 32], num_attention_heads=[1, 1, 1],
                  depths=[1, 1, 1], key_dim=[8, 8, 8]),
    "poolformer": seen("PoolFormer", hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1]),
    "segformer": seen("Segformer", 64, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1],
                      num_attention_heads=[1, 1, 2, 2]),
    "clip": Architecture(
        "transformers",
        lambda: hugging(
            "CLIP", "CLIPModel",
            text_config={**SIZES, "projection_dim": 16}, vision_config={**SIZES, "image_size": 32, "patch_size": 8},
            projection_dim=16,
        )(),
        lambda: {**ids(), **image()()},
    ),
    "decision transformer": Architecture(
        "transformers",
        hugging("DecisionTransformer", "DecisionTransformerModel", **SIZES, **OLD_NAMES, state_dim=5, act_dim=2,
                max_ep_len=20),
        lambda: {
            "states": normal(3, 4, 5), "actions": normal(3, 4, 2), "returns_to_go": normal(3, 4, 1),
            "timesteps": torch.arange(4).repeat(3, 1), "attention_mask": torch.ones(3, 4),
        },
    ),
    "patchtst": Architecture(
        "transformers",
        hugging("PatchTST", "PatchTSTForPrediction", **SIZES, num_input_channels=2, context_length=16, patch_length=4,
                patch_stride=4, d_model=WIDTH, ffn_dim=48, prediction_length=4),
        lambda: {"past_values": normal(3, 16, 2)},
    ),
}  # fmt: skip


def made(package: str, path: str, *args: Any, **options: Any) -> Callable[[], nn.Module]:
    """A model from its class: `module:Name`."""
    module, _, name = path.partition(":")

    def build() -> nn.Module:
        return getattr(importlib.import_module(f"{package}.{module}" if module else package), name)(*args, **options)

    return build


def of(package: str, path: str, inputs: Callable[[], Any], *args: Any, **options: Any) -> Architecture:
    return Architecture(package, made(package, path, *args, **options), inputs)


def policy(path: str, part: str = "", frames: bool = False, continuous: bool = False, **options: Any) -> Architecture:
    """A policy of stable_baselines3, or the network in it that its losses call."""

    def build() -> nn.Module:
        from gymnasium.spaces import Box, Discrete

        seen = Box(0, 255, (4, 84, 84), "uint8") if frames else Box(-1, 1, (6,))
        acts = Box(-1, 1, (2,)) if continuous else Discrete(4)
        whole = made("stable_baselines3", path, seen, acts, lambda _: 1e-3, **options)()
        return whole.get_submodule(part)

    def inputs() -> Any:
        observed = torch.randint(0, 256, (3, 4, 84, 84), generator=generator(), dtype=torch.uint8)
        given = observed if frames else normal(3, 6)
        if part == "critic":
            return given, normal(3, 2)
        return {"obs": given} if part == "q_net" or "td3" in path else {"obs": given, "deterministic": True}

    return Architecture("stable_baselines3", build, inputs)


SMALL = {"net_arch": [WIDTH, WIDTH]}
STABLE_BASELINES = {
    "ppo": policy("common.policies:ActorCriticPolicy"),
    "ppo relu, shared": policy(
        "common.policies:ActorCriticPolicy", net_arch={"pi": [WIDTH], "vf": [WIDTH]}, activation_fn=nn.ReLU
    ),
    "ppo gaussian": policy("common.policies:ActorCriticPolicy", continuous=True),
    "ppo cnn": policy("common.policies:ActorCriticCnnPolicy", frames=True),
    "dqn": policy("dqn.policies:DQNPolicy", "q_net", **SMALL),
    "dqn cnn": policy("dqn.policies:CnnPolicy", "q_net", frames=True),
    "sac actor": policy("sac.policies:SACPolicy", "actor", continuous=True, **SMALL),
    "sac critic": policy("sac.policies:SACPolicy", "critic", continuous=True, **SMALL),
    "td3 actor": policy("td3.policies:TD3Policy", "actor", continuous=True, **SMALL),
}


def observed() -> Tensor:
    return normal(3, 6)


def frames() -> Tensor:
    return normal(2, 4, 84, 84)


NETS, DISCRETE, CONTINUOUS = "utils.net.common", "utils.net.discrete", "utils.net.continuous"
ATARI = {"c": 4, "h": 84, "w": 84, "action_shape": 3}


def over(head: str, net: dict[str, Any], inputs: Callable[[], Any], **options: Any) -> Architecture:
    """A head of tianshou over its plain network."""

    def build() -> nn.Module:
        return made("tianshou", head, preprocess_net=made("tianshou", f"{NETS}:Net", **net)(), **options)()

    return Architecture("tianshou", build, inputs)


BODY = {"state_shape": 6, "hidden_sizes": [WIDTH]}
DUELING = ({"hidden_sizes": [WIDTH]}, {"hidden_sizes": [WIDTH]})
TIANSHOU = {
    "net": of("tianshou", f"{NETS}:Net", observed, **BODY, action_shape=3),
    "dueling": of("tianshou", f"{NETS}:Net", observed, **BODY, action_shape=3, dueling_param=DUELING),
    "recurrent": of("tianshou", f"{NETS}:Recurrent", lambda: normal(3, 4, 6), layer_num=1, state_shape=6,
        action_shape=3, hidden_layer_size=WIDTH),
    "branching": of(
        "tianshou", f"{NETS}:BranchingNet", observed, state_shape=6, num_branches=2, action_per_branch=3,
        common_hidden_sizes=[WIDTH], value_hidden_sizes=[WIDTH], action_hidden_sizes=[WIDTH],
    ),
    "discrete actor": over(f"{DISCRETE}:DiscreteActor", BODY, observed, action_shape=3, hidden_sizes=[WIDTH]),
    "gaussian actor": over(f"{CONTINUOUS}:ContinuousActorProbabilistic", BODY, observed, action_shape=2),
    "critic": over(
        f"{CONTINUOUS}:ContinuousCritic", {**BODY, "action_shape": 2, "concat": True},
        lambda: (normal(3, 6), normal(3, 2)),
    ),
    "iqn": over(
        f"{DISCRETE}:ImplicitQuantileNetwork", BODY, lambda: {"obs": observed(), "sample_size": 4}, action_shape=3,
        hidden_sizes=[WIDTH], num_cosines=8,
    ),
    "atari dqn": of("tianshou", "env.atari.atari_network:DQNet", frames, **ATARI),
    "atari c51": of("tianshou", "env.atari.atari_network:C51Net", frames, **ATARI, num_atoms=5),
    "atari rainbow": of("tianshou", "env.atari.atari_network:RainbowNet", frames, **ATARI, num_atoms=5),
    "atari qrdqn": of("tianshou", "env.atari.atari_network:QRDQNet", frames, **ATARI, num_quantiles=5),
}  # fmt: skip


class Functional(nn.Module):
    """A network of functions of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(8 * 16, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = nn.functional.max_pool2d(nn.functional.relu(self.conv2(x)), 2)
        return self.fc2(nn.functional.gelu(self.fc1(torch.flatten(x, 1))))


class Attending(nn.Module):
    """Attention and a recurrent layer, between layers that are called as modules."""

    def __init__(self, recurrent: type[nn.RNNBase] | None) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, WIDTH)
        self.attend = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.recurrent = recurrent(WIDTH, WIDTH, batch_first=True) if recurrent else None
        self.body, self.head = nn.Sequential(nn.Linear(WIDTH, 48), nn.SiLU()), nn.Linear(48, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.attend(x, x, x, need_weights=False)[0]
        x = self.recurrent(x)[0] if self.recurrent else x
        return self.head(self.body(x.mean(1)))


def own(build: Callable[[], nn.Module], inputs: Callable[[], Any]) -> Architecture:
    return Architecture("torch", build, inputs)


def encoder(**options: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 48, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


TORCH = {
    "transformer": own(
        lambda: nn.Transformer(WIDTH, 2, 2, 2, 48, batch_first=True),
        lambda: {"src": normal(3, 6, WIDTH), "tgt": normal(3, 4, WIDTH)},
    ),
    "encoder, pre-norm": own(lambda: encoder(norm_first=True, activation="gelu"), lambda: normal(3, 6, WIDTH)),
    "encoder, post-norm": own(encoder, lambda: normal(3, 6, WIDTH)),
    "decoder": own(
        lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(WIDTH, 2, 48, batch_first=True), 2),
        lambda: {"tgt": normal(3, 4, WIDTH), "memory": normal(3, 6, WIDTH)},
    ),
    "attention": own(lambda: Attending(None), tokens),
    "functional": own(Functional, lambda: normal(3, 3, 16, 16)),
    "rnn": own(lambda: Attending(nn.RNN), tokens),
    "gru": own(lambda: Attending(nn.GRU), tokens),
    "lstm": own(lambda: Attending(nn.LSTM), tokens),
}


def graph() -> dict[str, Tensor]:
    return {"x": normal(6, 8), "edge_index": torch.tensor([[0, 1, 2, 3, 4, 5, 0, 2], [1, 2, 3, 4, 5, 0, 3, 5]])}


def basic(name: str, **options: Any) -> Architecture:
    return of("torch_geometric", f"nn:{name}", graph, 8, WIDTH, 2, 3, **options)


GEOMETRIC = {
    "gcn": basic("GCN"),
    "sage": basic("GraphSAGE"),
    "gin": basic("GIN"),
    "gat": basic("GAT", heads=2),
    "gatv2": basic("GAT", heads=2, v2=True),
    "edgecnn": basic("EdgeCNN"),
    "attentive fp": of(
        "torch_geometric", "nn:AttentiveFP",
        lambda: {**graph(), "edge_attr": normal(8, 5), "batch": torch.tensor([0, 0, 0, 1, 1, 1])},
        8, WIDTH, 3, 5, 2, 2,
    ),
    "mlp": of("torch_geometric", "nn:MLP", observed, [6, WIDTH, WIDTH, 3], norm=None),
}  # fmt: skip
BLOCKS = {"block_out_channels": (16, 32), "norm_num_groups": 4}
DIFFUSERS = {
    "unet 2d": of(
        "diffusers", ":UNet2DModel", lambda: {"sample": normal(2, 3, 16, 16), "timestep": torch.tensor([1, 5])},
        sample_size=16, layers_per_block=1, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=8, **BLOCKS,
    ),
    "autoencoder": of(
        "diffusers", ":AutoencoderKL", lambda: {"sample": normal(2, 3, 16, 16)},
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **BLOCKS,
    ),
    "dit": of(
        "diffusers", ":DiTTransformer2DModel",
        lambda: {"hidden_states": normal(2, 4, 8, 8), "timestep": torch.tensor([1, 5]),
                 "class_labels": torch.tensor([0, 2])},
        num_attention_heads=2, attention_head_dim=16, in_channels=4, num_layers=2, sample_size=8, norm_num_groups=4,
        num_embeds_ada_norm=10,
    ),
}  # fmt: skip


def wrapped(layers: str, **options: Any) -> Architecture:
    """A language model of x_transformers with layers of one kind."""

    def build() -> nn.Module:
        made_layers = made("x_transformers", f":{layers}", dim=WIDTH, depth=2, heads=2, attn_dim_head=16, **options)()
        return made(
            "x_transformers", ":TransformerWrapper", num_tokens=TOKENS, max_seq_len=16, attn_layers=made_layers
        )()

    return Architecture("x_transformers", build, tokens)


X_TRANSFORMERS = {
    "decoder": wrapped("Decoder"),
    "encoder": wrapped("Encoder"),
    "decoder swiglu": wrapped("Decoder", ff_glu=True, ff_swish=True, use_rmsnorm=True, rotary_pos_emb=True),
    "decoder relu squared": wrapped("Decoder", ff_relu_squared=True),
}
ARCHITECTURES = {
    f"{first.package}/{name}": architecture
    for group in (TORCH, TRANSFORMERS, STABLE_BASELINES, TIANSHOU, GEOMETRIC, DIFFUSERS, X_TRANSFORMERS)
    for first in [next(iter(group.values()))]
    for name, architecture in group.items()
}
KERNEL = "a recurrent layer: its nonlinearities are inside one kernel"
ROUTER = "the softmax of the router has no norm"
GRAPH = "attention over neighbours, written with exp, leaky_relu and scatter"
PARTIAL = {
    "torch/rnn": KERNEL,
    "torch/gru": KERNEL,
    "torch/lstm": KERNEL,
    "tianshou/recurrent": KERNEL,
    "tianshou/atari rainbow": "the noisy layer computes its weight from two parameters, which are not projected",
    "transformers/mixtral": ROUTER,
    "transformers/qwen2_moe": ROUTER,
    "transformers/gpt_oss": "the router's choice of experts, clamped gates, the maximum over attention's sinks",
    "transformers/mamba": "the state's decay: exp and softplus of learned values, and products with them",
    "transformers/rwkv": "the exponentials of its attention, written out",
    "transformers/wav2vec2": "weight_norm computes the positional convolution's weight, which is not projected",
    "transformers/convnextv2": "its response norm divides by a mean over positions",
    "torch_geometric/gat": GRAPH,
    "torch_geometric/gatv2": GRAPH,
    "torch_geometric/edgecnn": "one activation module is shared by the message's network and the whole",
    "torch_geometric/attentive fp": f"{GRAPH}; recurrent cells",
    "diffusers/dit": "the conditioning's scales multiply other learned values",
}
"""The architectures that are handled in part, and why: the report lists every such operation."""


def prepared(name: str, dtype: torch.dtype, seed: int = 0) -> tuple[nn.Module, Any]:
    """A model in a dtype with its inputs. Its own norms get a small eps, which its tiny weights would not outweigh."""
    torch.manual_seed(seed)
    model, inputs = ARCHITECTURES[name].build().to(dtype), ARCHITECTURES[name].inputs()
    for part in model.modules():
        for key, value in vars(part).items():
            if "eps" in key and isinstance(value, float):
                setattr(part, key, 1e-12)
    return model, cast(inputs, dtype)


def cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, dict):
        return {key: cast(item, dtype) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(cast(item, dtype) for item in value)
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def outputs_of(model: nn.Module, inputs: Any) -> Tensor:
    """All floating-point outputs in one vector, the same for each call: noise is seeded."""
    torch.manual_seed(0)
    found = [tensor.flatten() for tensor in tensors(call(model, inputs)) if tensor.is_floating_point()]
    return torch.cat([tensor.to(found[0].dtype) for tensor in found])


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in the result of a forward, without those that are cached for a next call."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict) or hasattr(value, "__dict__"):
        held = value if isinstance(value, dict) else vars(value)
        yield from tensors(
            [item for key, item in held.items() if "past" not in key and "cache" not in key and key != "state"]
        )


@contextmanager
def calm(model: nn.Module) -> Iterator[None]:
    """No dropout in here, whoever calls it."""
    kept = [(part, key, value) for part in model.modules() for key, value in vars(part).items() if is_rate(key, value)]
    drops = [(part, "p", part.p) for part in model.modules() if isinstance(part, nn.modules.dropout._DropoutNd)]
    for part, key, _ in kept + drops:
        setattr(part, key, 0.0)
    yield
    for part, key, value in kept + drops:
        setattr(part, key, value)


def is_rate(key: str, value: Any) -> bool:
    return "drop" in key and isinstance(value, float)


def counts(partial: Collection[str], refused: Collection[str] = ()) -> str:
    """The table of docs/nap.md: how many architectures of each package are handled whole, in part, or refused."""
    packages = list(dict.fromkeys(name.split("/")[0] for name in ARCHITECTURES))
    lines = ["| package | ok | partial | refused |", "|---|---:|---:|---:|"]
    for package in [*packages, "all"]:
        names = [name for name in ARCHITECTURES if package in ("all", name.split("/")[0])]
        part, none = len({*names} & {*partial}), len({*names} & {*refused})
        lines.append(f"| {package} | {len(names) - part - none} | {part} | {none} |")
    return "\n".join(lines)


def main() -> None:
    """Prints what `normalize` makes of each architecture, and the table of counts."""
    import nap

    partial: dict[str, nap.Report] = {}
    refused: dict[str, str] = {}
    for name in ARCHITECTURES:
        model, inputs = prepared(name, torch.float32)
        try:
            report = nap.normalize(model, example_inputs=inputs)
        except ValueError as error:
            refused[name] = str(error)
            print(f"refused  {name}: {error}")
            continue
        partial |= {name: report} if report.not_handled else {}
        print(f"{'partial' if report.not_handled else 'ok':7}  {name}")
        for place, why in report.not_handled:
            print(f"           {place}: {why}")
    print(f"\n{counts(partial, refused)}")


if __name__ == "__main__":
    main()
