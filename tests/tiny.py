"""A tiny random encoder, a real fast tokenizer for it, and adapters that nobody could mistake for one another.

Two layers of 32 numbers: most promises can be tested on it in milliseconds.
"""

from collections.abc import Sequence
from datetime import date
from functools import partial
from pathlib import Path
from string import ascii_lowercase, digits
from typing import Any

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
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

from service.adapters.file import write_adapter
from service.adapters.manifest import Golden, HeadSettings, Input, KindName, Manifest, TokenizerSettings, Trained
from service.adapters.methods import AnyMethod, Houlsby
from service.engine.bank import Resident, load_resident
from service.engine.base_model import BaseModel
from service.engine.engine import Engine, Row
from service.engine.tokens import TokenizedRow, tokenize
from service.tasks import Floats, expected_shapes

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
}
BERT_SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
ROBERTA_SPECIAL = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}


def build_tiny(folder: Path, model_type: str = "bert", seed: int = 0, **config: Any) -> Path:
    """Writes a random checkpoint with its tokenizer into `folder`, and gives it back.

    Args:
        config: fields of the config that shall differ.
    """
    special = BERT_SPECIAL if model_type in ("bert", "distilbert") else ROBERTA_SPECIAL
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
    **fields: Any,
) -> Manifest:
    """A manifest that fits `base`; `labels` count for kinds that have them. `fields` are any others of the manifest."""
    return Manifest(
        **{
            "task": task,
            "kind": kind,
            "method": method or Houlsby(bottleneck=4),
            "labels": [] if kind in ("regression", "embedding") else list(labels),
            "base": base.identity,
            "tokenizer": TokenizerSettings(max_length=min(MAX_LENGTH, base.max_length)),
            "head": HeadSettings(pair=pair),
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
    seed: int = 0,
    scale: float = 0.3,
    golden: Sequence[Input] = (),
    **fields: Any,
) -> bytes:
    """A valid adapter file; another `seed` answers differently.

    Args:
        golden: inputs to store with the outputs that the engine really gives.
    """
    manifest = make_manifest(base, task, kind, labels, method, pair, **fields)
    tensors = make_tensors(base, manifest, seed, scale)
    if golden:
        resident = load_resident(base, write_adapter(manifest, tensors), version=1)
        rows = [Row(_read(base, manifest, given), resident) for given in golden]
        outputs = [resident.kind.decode(manifest, raw).outputs.tolist() for raw in Engine(base).run(rows)]
        known = [Golden(input=given, outputs=output) for given, output in zip(golden, outputs, strict=True)]
        manifest = manifest.model_copy(update={"golden": known})
    return write_adapter(manifest, tensors)


def make_resident(base: BaseModel, /, version: int = 1, **adapter: Any) -> Resident:
    """An adapter of `make_adapter`, ready to run."""
    return load_resident(base, make_adapter(base, **adapter), version)


def random_row(length: int, seed: int = 0, pair: bool = False, vocabulary: int = 100) -> TokenizedRow:
    """A row of random tokens; of a pair, the second half is the second text."""
    ids = torch.randint(5, vocabulary, (length,), generator=torch.Generator().manual_seed(1000 * length + seed))
    types = (torch.arange(length) >= length // 2).long() if pair else torch.zeros(length, dtype=torch.long)
    return TokenizedRow(ids.numpy(), types.numpy(), truncated=False)


def alone(engine: Engine, row: Row) -> Floats:
    """The row's raw outputs when nobody shares its batch."""
    return engine.run([row])[0]


def _read(base: BaseModel, manifest: Manifest, given: Input) -> TokenizedRow:
    pairs = [given.text_pair or ""] if manifest.head.pair else None
    return tokenize(base.tokenizer, [given.text], pairs, manifest.tokenizer.max_length)[0]


def _stir(model: torch.nn.Module) -> None:
    """Random biases and norms: transformers starts them at 0 and 1, where a mix-up would not show."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                centre = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
                parameter.copy_(centre + 0.3 * torch.randn_like(parameter))
