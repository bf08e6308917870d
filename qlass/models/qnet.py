"""The QNet: the policy's trunk and a value head, read at the last token of an action (paper section 3.3)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qlass.errors import DataError, ModelMismatch
from qlass.jsonl import read_json, write_json
from qlass.models.folders import (
    check_saved,
    check_tokenizer,
    copy_tokenizer,
    embedding_rows,
    from_pretrained,
    load_tokenizer,
    weights_fingerprint,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class ValueHead(nn.Sequential):
    """Linear(H, W) - ReLU - Linear(W, W) - ReLU - Linear(W, 1), always in fp32."""

    def __init__(self, hidden: int, width: int) -> None:
        """Draw the weights from torch's generator."""
        super().__init__(nn.Linear(hidden, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return Q-values (...) of hidden states (..., H)."""
        # Under autocast too, the head computes in fp32: bf16 has steps of 0.004 near 1, which would tie siblings.
        with torch.autocast(hidden.device.type, enabled=False):
            return cast("Tensor", super().forward(hidden.float())).squeeze(-1)  # type: ignore[no-untyped-call]


class QNet(nn.Module):
    """Maps the hidden state at the end of an action to its Q-value.

    Attributes:
        backbone: a decoder without its language-model head.
        head: the ValueHead.
    """

    def __init__(self, backbone: PreTrainedModel, width: int = 1024) -> None:
        """Put a new head of `width` hidden units, drawn from torch's generator, on a trunk."""
        super().__init__()
        self.backbone = backbone
        self.head = ValueHead(int(backbone.config.hidden_size), width)

    def values(self, hidden: Tensor) -> Tensor:
        """Return Q-values (...) of hidden states (..., H) that the backbone gave at action ends."""
        return cast("Tensor", self.head(hidden))

    def states(self, ids: Tensor) -> Tensor:
        """Return the hidden states (B, T, H) of rows of ids (B, T) that are padded on the right only."""
        return cast("Tensor", self.backbone(input_ids=ids, use_cache=False).last_hidden_state)

    def forward(self, ids: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        """Return the Q-values (N,) at some positions of rows of ids (B, T); see `states`."""
        return self.values(self.states(ids)[rows, positions])


def save_qnet(qnet: QNet, folder: Path, tokenizer_from: Path, *, policy_trunk: bool = False) -> None:
    """Write a QNet folder (replacing an older one): backbone, value head and tokenizer; then open it again.

    Args:
        qnet: what to save.
        folder: gets config.json, model.safetensors, value_head.safetensors, value_head.json and the tokenizer files.
        tokenizer_from: the policy folder whose tokenizer it uses.
        policy_trunk: the backbone is the policy's own, unchanged; it is saved all the same (the folder needs no other), and its
            fingerprint is noted, by which `load_value_head` knows the policy that can share it.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    qnet.backbone.save_pretrained(folder)
    head = {name: value.detach().cpu().contiguous() for name, value in qnet.head.state_dict().items()}
    save_file(head, folder / "value_head.safetensors")
    first = cast("nn.Linear", qnet.head[0])
    shape: dict[str, int | str] = {"hidden_size": first.in_features, "width": first.out_features}
    if policy_trunk:
        shape["policy_trunk"] = weights_fingerprint(qnet.backbone)
    write_json(folder / "value_head.json", shape)
    copy_tokenizer(tokenizer_from, folder)
    check_saved(folder)


def load_qnet(
    folder: Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> tuple[QNet, PreTrainedTokenizerBase]:
    """Load a QNet folder, in evaluation mode.

    Args:
        folder: what `save_qnet` wrote.
        dtype: of the backbone; the head is always fp32.
        device: where to put it.

    Raises:
        DataError: the folder is not a QNet folder.
        ModelMismatch: head, backbone and tokenizer do not fit each other.
    """
    shape = _shape(folder)
    backbone = from_pretrained("AutoModel", str(folder), None, dtype)
    if shape["hidden_size"] != backbone.config.hidden_size:
        raise ModelMismatch(
            f"{folder}: the value head reads {shape['hidden_size']} hidden units, the backbone has "
            f"{backbone.config.hidden_size}; the files belong to different models"
        )
    qnet = QNet(backbone, shape["width"])
    _load_head(qnet.head, folder)
    tokenizer = load_tokenizer(folder)
    check_tokenizer(embedding_rows(backbone), tokenizer, str(folder))
    return qnet.to(device).eval(), tokenizer


def load_value_head(folder: Path, policy_trunk: nn.Module) -> ValueHead | None:
    """Load the value head of a QNet folder if it was trained on this very trunk (`qnet.trunk: policy`), else return None.

    Args:
        folder: what `save_qnet` wrote.
        policy_trunk: the policy's decoder in the precision of its files, on any device; the head is put beside it.

    Raises:
        DataError: the folder is not a QNet folder.
        ModelMismatch: the head's weights cannot be read.
    """
    shape = _shape(folder)
    if shape.get("policy_trunk") != weights_fingerprint(policy_trunk):
        return None
    head = ValueHead(shape["hidden_size"], shape["width"])
    _load_head(head, folder)
    return head.to(next(policy_trunk.parameters()).device).eval()


def _shape(folder: Path) -> dict[str, Any]:
    if not (folder / "value_head.json").exists():
        raise DataError(f"{folder}: not a QNet; expected value_head.json; run the stage `qnet`")
    return cast("dict[str, Any]", read_json(folder / "value_head.json"))


def _load_head(head: ValueHead, folder: Path) -> None:
    try:
        head.load_state_dict(load_file(folder / "value_head.safetensors"))
    except (OSError, RuntimeError) as error:
        raise ModelMismatch(f"{folder}/value_head.safetensors: {error}") from error
