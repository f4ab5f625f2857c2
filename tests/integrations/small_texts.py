"""Texts and a language model of the trainings with Transformers in this folder."""

import torch
from small_data import SAMPLES
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel


class Texts(Dataset[dict[str, torch.Tensor]]):
    """Random tokens, some of them padding that has no label."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(0, 16, (SAMPLES, 8), generator=generator)

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = self.tokens[index]
        labels = tokens.clone()
        labels[8 - index % 5 :] = -100
        return {"input_ids": tokens, "labels": labels}


def language_model() -> GPT2LMHeadModel:
    torch.manual_seed(1)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=16, n_positions=8, n_embd=8, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0,
            attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
