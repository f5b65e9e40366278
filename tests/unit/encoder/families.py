"""Tiny random networks of every supported family, and for each a tokenizer that pads and frames as the family does."""

from __future__ import annotations

import copy
import string
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from pipeline.encoder.attention import attention_kernel

_WORDS = ("the", "film", "was", "good", "bad", "lovely")
_COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.2,
}
_POSITIONS = 64
_BERT = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
_ROBERTA = ("<s>", "<pad>", "</s>", "<unk>")
_XLNET = ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>")


@dataclass(frozen=True)
class Family:
    """A configuration class, its fields, its special tokens in id order, and how single texts and pairs are framed."""

    config: str
    fields: dict[str, Any]
    specials: tuple[str, ...] = _BERT
    single: str = "[CLS] $A [SEP]"
    pair: str = "[CLS] $A [SEP] $B:1 [SEP]:1"
    pad: str = "[PAD]"
    pads_left: bool = False
    takes_types: bool = True

    @property
    def pad_id(self) -> int:
        return self.specials.index(self.pad)

    def tokenizer(self) -> Any:
        """WordPiece over ASCII, framed by the family's special tokens."""
        pieces = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase), ",", ".", *_WORDS]
        ids = {token: index for index, token in enumerate((*self.specials, *pieces))}
        unknown = next(token for token in self.specials if "unk" in token.lower())
        backend = Tokenizer(models.WordPiece(ids, unk_token=unknown))
        backend.normalizer = normalizers.Lowercase()
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        specials = [(token, ids[token]) for token in self.specials]
        backend.post_processor = processors.TemplateProcessing(
            single=self.single, pair=self.pair, special_tokens=specials
        )
        names = ["input_ids", *(["token_type_ids"] if self.takes_types else []), "attention_mask"]
        side = "left" if self.pads_left else "right"
        return PreTrainedTokenizerFast(
            tokenizer_object=backend,
            unk_token=unknown,
            pad_token=self.pad,
            padding_side=side,
            model_input_names=names,
        )

    def network(self, head_class: str, seed: int = 0) -> Any:
        """Random weights with a head, in eval mode, on the attention kernel that a run would choose; a copy."""
        key = (id(self), head_class, seed)
        if key not in _NETWORKS:
            _NETWORKS[key] = self._make_network(head_class, seed)
        return copy.deepcopy(_NETWORKS[key])

    def _make_network(self, head_class: str, seed: int) -> Any:
        size = len(self.tokenizer())
        config = getattr(transformers, self.config)(vocab_size=size, pad_token_id=self.pad_id, **self.fields)
        auto_class = getattr(transformers, head_class)
        model_class = auto_class._model_mapping[type(config)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = auto_class.from_config(config, attn_implementation=attention_kernel(model_class, config))
            for weights in network.parameters():
                if weights.ndim > 1:
                    torch.nn.init.normal_(weights, std=0.3)
        return network.eval()


_NETWORKS: dict[tuple[int, str, int], Any] = {}  # to copy one takes a tenth of making it

_ROBERTA_LIKE: dict[str, Any] = {
    "specials": _ROBERTA,
    "single": "<s> $A </s>",
    "pair": "<s> $A </s> </s> $B </s>",
    "pad": "<pad>",
    "takes_types": False,
}
_ROBERTA_FIELDS = {**_COMMON, "max_position_embeddings": _POSITIONS + _ROBERTA.index("<pad>") + 1, "type_vocab_size": 1}
_BERT_FIELDS = {**_COMMON, "max_position_embeddings": _POSITIONS}

FAMILIES: dict[str, Family] = {
    "bert": Family("BertConfig", _BERT_FIELDS),
    "roberta": Family("RobertaConfig", _ROBERTA_FIELDS, **_ROBERTA_LIKE),
    "xlm-roberta": Family("XLMRobertaConfig", _ROBERTA_FIELDS, **_ROBERTA_LIKE),
    "distilbert": Family(
        "DistilBertConfig",
        {
            "dim": 32,
            "n_layers": 2,
            "n_heads": 2,
            "hidden_dim": 64,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "seq_classif_dropout": 0.0,
            "qa_dropout": 0.0,
            "max_position_embeddings": _POSITIONS,
        },
        takes_types=False,
    ),
    "electra": Family("ElectraConfig", {**_BERT_FIELDS, "embedding_size": 16}),
    "mpnet": Family("MPNetConfig", _ROBERTA_FIELDS, **_ROBERTA_LIKE),
    "albert": Family("AlbertConfig", {**_BERT_FIELDS, "embedding_size": 16, "classifier_dropout_prob": 0.0}),
    "xlnet": Family(
        "XLNetConfig",
        {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64, "dropout": 0.0, "summary_last_dropout": 0.0},
        specials=_XLNET,
        single="$A:0 <sep>:0 <cls>:2",
        pair="$A:0 <sep>:0 $B:1 <sep>:1 <cls>:2",
        pad="<pad>",
        pads_left=True,
    ),
    "deberta-v2": Family(
        "DebertaV2Config",
        {
            **_BERT_FIELDS,
            "relative_attention": True,
            "position_buckets": 16,
            "pos_att_type": ["p2c", "c2p"],
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "position_biased_input": False,
            "type_vocab_size": 0,
            "pooler_dropout": 0.0,
        },
    ),
    "modernbert": Family(
        "ModernBertConfig",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": _POSITIONS,
            "local_attention": 8,
            "cls_token_id": 1,
            "sep_token_id": 2,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        takes_types=False,
    ),
}

# What shares its layers' code with one of those, or goes through the same interface: compared once, not by every test.
RELATED: dict[str, Family] = {
    "camembert": Family("CamembertConfig", _ROBERTA_FIELDS, **_ROBERTA_LIKE),
    "ernie": Family("ErnieConfig", {**_BERT_FIELDS, "use_task_id": True}),
    "gte": Family("GteConfig", _BERT_FIELDS, takes_types=False),
    "jina_embeddings_v3": Family("JinaEmbeddingsV3Config", _BERT_FIELDS, takes_types=False),
    "nomic_bert": Family("NomicBertConfig", _BERT_FIELDS),
    "xlm-roberta-xl": Family("XLMRobertaXLConfig", _ROBERTA_FIELDS, **_ROBERTA_LIKE),
}
EVERY = {**FAMILIES, **RELATED}
