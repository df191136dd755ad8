"""Tiny models of transformers, made here: random weights, eight words, nothing downloaded."""

import json
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ["[UNK]", "[PAD]", "[EOS]", "[MASK]", "the", "cat", "sat", "on", "mat"]
POSITIONS = 64
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def save(model, directory):
    """Write a model with its tokenizer, and return the directory as text."""
    torch.manual_seed(0)
    model.save_pretrained(directory)
    _tokenizer().save_pretrained(directory)
    return str(directory)


def save_gpt(directory, **options):
    """Write a model that generates text; without an end token, so it goes on as long as it may."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(WORDS), n_positions=POSITIONS, n_embd=16, n_layer=1, n_head=2, pad_token_id=1, **options
    )
    config.eos_token_id = config.bos_token_id = None
    path = save(transformers.GPT2LMHeadModel(config), directory)
    # Without an end token in its settings either.
    settings = Path(directory, "generation_config.json")
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "eos_token_id": None, "pad_token_id": 1}))
    return path


def bert(cls="BertForSequenceClassification"):
    """Return a model of one of BERT's classes."""
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=POSITIONS, **SIZES)
    return getattr(transformers, cls)(config).eval()


def _tokenizer():
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", eos_token="[EOS]", mask_token="[MASK]"
    )
