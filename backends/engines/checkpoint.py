"""Checkpoints as transformers reads them, written tensor by tensor: no more than one is held beside the model.

A `.safetensors` file is the length of its header in 8 bytes, the header, and the tensors' bytes in its order
(https://huggingface.co/docs/safetensors). The library itself writes only what is all there.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.core_model_loading import revert_weight_conversion

from rldsl.backends.engines import sources

FILE_BYTES = 5 << 30
"""Above this there are several files, and an index."""
_NAME, _PATTERN = "model.safetensors", "model{suffix}.safetensors"
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64", torch.int32: "I32"}

Named = tuple[str, Tensor]
Convert = Callable[[str, Tensor], Mapping[str, Tensor]]


def write(
    path: Path,
    hollow: PreTrainedModel,
    shapes: Mapping[str, Tensor],
    weights: Iterable[Named],
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Put a checkpoint in place of what is at `path`, whole or not at all.

    `hollow` is the model without weights, `shapes` are these on the meta device, and `weights` themselves come in the
    order of `shapes`. OSError when there is no room.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        with sources.quiet():
            _write_settings(made, hollow, shapes)
            tokenizer.save_pretrained(made)
        _write_weights(made, hollow, shapes, weights)
        made.chmod(0o755)
        if path.exists():
            # A directory cannot be replaced in one rename; the old one steps aside first.
            path.rename(made / "replaced")
        made.rename(path)
        shutil.rmtree(path / "replaced", ignore_errors=True)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _write_settings(folder: Path, hollow: PreTrainedModel, shapes: Mapping[str, Tensor]) -> None:
    config: Any = hollow.config
    dtype = next(t.dtype for t in shapes.values() if t.is_floating_point())
    config.dtype = str(dtype).removeprefix("torch.")
    config.architectures = [type(hollow).__name__]
    config.save_pretrained(folder)
    if hollow.can_generate():
        generation: Any = hollow.generation_config
        generation.save_pretrained(folder)


def _write_weights(
    folder: Path, hollow: PreTrainedModel, shapes: Mapping[str, Tensor], weights: Iterable[Named]
) -> None:
    convert = _conversion(hollow, shapes)
    if convert is None:
        # The published form of some weight is made of several.
        whole = revert_weight_conversion(hollow, dict(weights))
        described = {name: torch.empty_like(t, device="meta") for name, t in whole.items()}
        each = iter(whole.items())
    else:
        described = {n: t for name, shape in shapes.items() for n, t in convert(name, shape).items()}
        each = _converted(convert, weights)
    split = split_torch_state_dict_into_shards(described, filename_pattern=_PATTERN, max_shard_size=FILE_BYTES)
    for file, names in split.filename_to_tensors.items():
        with (folder / file).open("wb") as out:
            _write_file(out, {n: described[n] for n in names}, each)
    assert next(each, None) is None, "all weights are in one of the files"
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / f"{_NAME}.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _converted(convert: Convert, weights: Iterable[Named]) -> Iterator[Named]:
    for name, weight in weights:
        yield from convert(name, weight).items()
        del weight  # or the next would be gathered beside it


def _conversion(hollow: PreTrainedModel, shapes: Mapping[str, Tensor]) -> Convert | None:
    """What makes of one weight those of the published form, such as of all experts each; None if that needs several."""

    def convert(name: str, tensor: Tensor) -> Mapping[str, Tensor]:
        made: dict[str, Tensor] = revert_weight_conversion(hollow, {name: tensor})
        return made

    def shape(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
        return {name: t.shape for name, t in tensors.items()}

    want = shape(revert_weight_conversion(hollow, dict(shapes)))
    if want == shape(shapes):
        return lambda name, tensor: {name: tensor}
    try:
        found = {n: t for name, tensor in shapes.items() for n, t in convert(name, tensor).items()}
    except (RuntimeError, ValueError, IndexError, KeyError):
        return None
    return convert if shape(found) == want else None


def _write_file(out: BinaryIO, described: Mapping[str, Tensor], weights: Iterator[Named]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, like in described.items():
        begin, end = end, end + like.nbytes
        assert begin % like.itemsize == 0, "wider numbers come first, or readers could not map them"
        header[name] = {"dtype": _DTYPES[like.dtype], "shape": list(like.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    # Tensors begin at a multiple of 8 bytes.
    text += b" " * (-len(text) % 8)
    out.write(len(text).to_bytes(8, "little") + text)
    for expected, like in described.items():
        name, weight = next(weights)
        assert (name, weight.shape, weight.dtype) == (expected, like.shape, like.dtype), "weights come as described"
        out.write(_bytes(weight))
        del weight


def _bytes(weight: Tensor) -> memoryview:
    flat = weight.detach().cpu().contiguous().reshape(-1)
    array: Any = flat.view(torch.uint8).numpy()
    return memoryview(array)
