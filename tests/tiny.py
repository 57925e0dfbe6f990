"""A tiny random encoder, a real fast tokenizer for it, and adapters that nobody could mistake for one another.

Two layers of 32 numbers: most promises can be tested on it in milliseconds.
"""

from collections.abc import Sequence
from datetime import date
from functools import partial
from pathlib import Path
from random import Random
from string import ascii_lowercase, digits
from typing import Any, Literal, get_args

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing, RobertaProcessing
from torch import Tensor
from transformers import (
    AutoModel,
    BertConfig,
    CamembertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

from service.adapters.file import write_adapter
from service.adapters.manifest import Golden, HeadSettings, Input, KindName, Manifest, TokenizerSettings, Trained
from service.adapters.methods import BARE, AnyMethod, Head, Houlsby, Lora, Parallel, Pfeiffer, PrefixTuning
from service.engine.arranging import load_resident
from service.engine.bank import Resident
from service.engine.base_model import BaseModel
from service.engine.encoder import Group, encode
from service.engine.engine import Engine, Row
from service.engine.packing import pack
from service.tasks import Floats, Given, Reading, Span, TokenizedRow, expected_shapes, kind_of, read_for

MAX_LENGTH = 64
WORDS = [
    *(
        "the",
        "a",
        "this",
        "that",
        "is",
        "was",
        "are",
        "not",
        "and",
        "of",
        "to",
        "in",
        "really",
        "very",
        "never",
        "again",
    ),
    *("good", "bad", "great", "awful", "love", "hate", "film", "book", "food", "place", "service", "time", "people"),
    *("cat", "dog", "rain", "sun", "red", "blue", "one", "two", "three", "world", "small", "large"),
]
PUNCTUATION = list(".,!?'-:;")

# Any label set will do where a test does not care.
LABELS = ("negative", "positive")
KINDS: tuple[KindName, ...] = get_args(KindName)
LABELLED: tuple[KindName, ...] = ("classification", "multilabel", "tagging")

UNREAD = Reading(Given("unread"), ())  # for kinds that decode without looking at the text

# Every way to enter the base, and every option that makes it another one.
METHODS: dict[str, AnyMethod] = {
    "houlsby": Houlsby(bottleneck=4),
    "houlsby without norms": Houlsby(bottleneck=9, norms=False, activation="tanh"),
    "pfeiffer": Pfeiffer(bottleneck=5, activation="relu"),
    "pfeiffer with gelu's near relative": Pfeiffer(bottleneck=3, activation="gelu_tanh"),
    "pfeiffer in one layer": Pfeiffer(bottleneck=1, layers=(1,)),
    "parallel": Parallel(bottleneck=4, activation="swish"),
    "lora": Lora(rank=3, alpha=6),
    "lora everywhere": Lora(
        rank=2, alpha=1, norms=True, targets=("query", "key", "value", "attention_out", "ffn_in", "ffn_out")
    ),
    "lora in one layer": Lora(rank=4, layers=(0,), targets=("key", "ffn_out")),
    "prefix": PrefixTuning(length=3),
    "prefix with norms": PrefixTuning(length=7, norms=True),
    "head": Head(),
    "head with norms": Head(norms=True),
}

_SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_ROBERTA: dict[str, Any] = _SIZES | {"max_position_embeddings": MAX_LENGTH + 2, "pad_token_id": 1, "type_vocab_size": 1}
# By `model_type`: a config that needs the vocabulary's size and nothing else.
CONFIGS: dict[str, Any] = {
    "bert": partial(BertConfig, **_SIZES, max_position_embeddings=MAX_LENGTH, type_vocab_size=2),
    "roberta": partial(RobertaConfig, **_ROBERTA),
    "xlm-roberta": partial(XLMRobertaConfig, **_ROBERTA),
    "camembert": partial(CamembertConfig, **_ROBERTA),
    "distilbert": partial(
        DistilBertConfig, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=MAX_LENGTH
    ),
    "electra": partial(
        ElectraConfig, **_SIZES, embedding_size=24, max_position_embeddings=MAX_LENGTH, type_vocab_size=2
    ),
    "mpnet": partial(MPNetConfig, **_SIZES, max_position_embeddings=MAX_LENGTH + 2),
    "modernbert": partial(
        ModernBertConfig, **_SIZES, max_position_embeddings=MAX_LENGTH, local_attention=12, pad_token_id=0
    ),
}
BERT_SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
ROBERTA_SPECIAL = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}


def build_tiny(folder: Path, model_type: str = "bert", seed: int = 0, **config: Any) -> Path:
    """Writes a random checkpoint with its tokenizer into `folder`, and gives it back.

    Args:
        config: fields of the config that shall differ.
    """
    special = ROBERTA_SPECIAL if model_type in ("roberta", "xlm-roberta", "camembert", "mpnet") else BERT_SPECIAL
    tokenizer = tiny_tokenizer(special)
    settings = CONFIGS[model_type](vocab_size=tokenizer.get_vocab_size(), initializer_range=0.2, **config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: torch.nn.Module = AutoModel.from_config(settings).eval()  # type: ignore[no-untyped-call]
        _stir(model)
    model.save_pretrained(folder)  # type: ignore[operator]
    save_tokenizer(tokenizer, special, folder)
    return folder


def tiny_tokenizer(special: dict[str, str] = BERT_SPECIAL) -> Tokenizer:
    """WordPiece over a few words, and over single letters for all others."""
    characters = [*ascii_lowercase, *digits]
    tokens = [*special.values(), *PUNCTUATION, *characters, *(f"##{character}" for character in characters)]
    tokens += [word for word in WORDS if word not in tokens]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token=special["unk"]))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    sep, cls = ((special[name], vocabulary[special[name]]) for name in ("sep", "cls"))
    tokenizer.post_processor = BertProcessing(sep, cls) if special is BERT_SPECIAL else RobertaProcessing(sep, cls)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, special: dict[str, str], folder: Path) -> None:
    """Saves as transformers does, so that `AutoTokenizer` finds it."""
    names = {f"{name}_token": token for name, token in special.items()}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)  # type: ignore[no-untyped-call]
    wrapped.save_pretrained(folder)


def make_manifest(
    base: BaseModel,
    /,
    task: str = "toy",
    kind: KindName = "classification",
    labels: Sequence[str] = LABELS,
    method: AnyMethod | None = None,
    pair: bool = False,
    pooling: Literal["mean", "first"] = "mean",
    **fields: Any,
) -> Manifest:
    """A manifest that fits `base`; `labels` count for kinds that have them, and kind answer always reads pairs.

    Args:
        fields: any others of the manifest.
    """
    return Manifest(
        **{
            "task": task,
            "kind": kind,
            "method": method or Houlsby(bottleneck=4),
            "labels": list(labels) if kind in LABELLED else [],
            "base": base.identity,
            "tokenizer": TokenizerSettings(max_length=min(MAX_LENGTH, base.max_length)),
            "head": HeadSettings(pooling=pooling, pair=pair or kind == "answer"),
            "trained": Trained(metric="accuracy", value=0.5, rows=100, seed=0, date=date(2026, 1, 2), source="random"),
            **fields,
        }
    )


def make_tensors(base: BaseModel, manifest: Manifest, seed: int = 0, scale: float = 0.3) -> dict[str, Tensor]:
    """Random weights, far from the identity, for every tensor of the manifest; as half precision holds them."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in expected_shapes(manifest, base.dims).items():
        noise = scale * torch.randn(shape, generator=generator)
        tensors[name] = (noise + 1 if name.endswith("norm.weight") else noise).half().float()
    return tensors


def make_adapter(
    base: BaseModel,
    /,
    task: str = "toy",
    kind: KindName = "classification",
    labels: Sequence[str] = LABELS,
    method: AnyMethod | None = None,
    pair: bool = False,
    pooling: Literal["mean", "first"] = "mean",
    seed: int = 0,
    scale: float = 0.3,
    golden: Sequence[Input] = (),
    **fields: Any,
) -> bytes:
    """A valid adapter file; another `seed` answers differently.

    Args:
        golden: inputs to store with the outputs that the engine really gives.
    """
    manifest = make_manifest(base, task, kind, labels, method, pair, pooling, **fields)
    tensors = make_tensors(base, manifest, seed, scale)
    if golden:
        resident = load_resident(base, write_adapter(manifest, tensors), version=1)
        known = []
        for given in golden:
            reading = read_one(base, manifest, given.text, given.text_pair)
            raw = Engine(base).run([Row(row, resident) for row in reading.rows])
            outputs = resident.kind.decode(manifest, reading, raw).outputs
            known.append(Golden(input=given, outputs=outputs.tolist()))
        manifest = manifest.model_copy(update={"golden": known})
    return write_adapter(manifest, tensors)


def make_resident(base: BaseModel, /, version: int = 1, **adapter: Any) -> Resident:
    """An adapter of `make_adapter`, ready to run."""
    return load_resident(base, make_adapter(base, **adapter), version)


def make_pointer(base: BaseModel, task: str, kind: Literal["tagging", "answer"], word: str, **fields: Any) -> bytes:
    """An adapter that finds `word` wherever in a text it stands, as an entity or as the answer; its head is trained."""
    manifest = make_manifest(base, task, kind, labels=["found"], method=Head(), **fields)
    others, generator = [one for one in [*WORDS, *PUNCTUATION, "東", "🙂", "x"] if one != word], Random(0)
    readings, targets = [], []
    for number in range(160):
        words = generator.choices(generator.sample(others, generator.randint(2, 20)), k=generator.randint(1, 30))
        place = generator.randrange(len(words))
        words[place] = word if number % 3 else words[place]
        start = len(" ".join([*words[:place], ""]))
        label = (Span(start, start + len(word), "found"),) if number % 3 else ()
        question = " ".join(generator.choices(others, k=3)) if kind == "answer" else None
        text = " ".join(words)
        readings.append(read_one(base, manifest, *((question, text) if question else (text,))))
        targets += kind_of(manifest).targets(manifest, readings[-1], label)
    rows = [row for reading in readings for row in reading.rows]
    batch = pack(rows)
    with torch.inference_mode():
        x = encode(base.weights, batch, [Group(slice(0, len(rows)), slice(0, len(batch.ids)), BARE)])
    head = {
        name: torch.zeros(shape, requires_grad=True) for name, shape in expected_shapes(manifest, base.dims).items()
    }
    x = x.clone()  # not an inference tensor, so that training may use it
    trained, finder = kind_of(manifest), torch.optim.LBFGS(head.values(), max_iter=80, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        finder.zero_grad()
        loss = trained.loss(trained.outputs(head, x), targets, batch.lengths)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    finder.step(loss)  # type: ignore[no-untyped-call]
    return write_adapter(manifest, head)


def read_one(base: BaseModel, manifest: Manifest, text: str, text_pair: str | None = None) -> Reading:
    """One input, read as the task reads it."""
    return read_for(manifest, base.tokenizer, [Given(text, text_pair)])[0]


def random_row(length: int, seed: int = 0, pair: bool = False, vocabulary: int = 100) -> TokenizedRow:
    """A row of random tokens; of a pair, the second half is the second text."""
    ids = torch.randint(5, vocabulary, (length,), generator=torch.Generator().manual_seed(1000 * length + seed))
    types = (torch.arange(length) >= length // 2).long() if pair else torch.zeros(length, dtype=torch.long)
    return TokenizedRow(ids.numpy(), types.numpy(), truncated=False)


def alone(engine: Engine, row: Row) -> Floats:
    """The row's raw outputs when nobody shares its batch."""
    return engine.run([row])[0]


def _stir(model: torch.nn.Module) -> None:
    """Random biases and norms: transformers starts them at 0 and 1, where a mix-up would not show."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                centre = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
                parameter.copy_(centre + 0.3 * torch.randn_like(parameter))
