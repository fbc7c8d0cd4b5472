"""Builds the two towers of a model with open_clip, and finds the tokenizer that belongs to them."""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from datamodules.usage_error import UsageError
from lightning_modules.weights import check_finite

CLIP_VOCABULARY = 49_408  # of CLIP's byte-pair tokenizer, which the datamodules bring
NEEDED = {'embed_dim': int, 'vision_cfg': dict, 'text_cfg': dict}  # settings of a model, and their types
UNUSED = ('logit_bias', 'text_decoder')  # of SigLIP's loss and of CoCa's captioning
SAVED_FOR_HUGGING_FACE = 'open_clip_config.json'  # name of the settings in the folder of such a model


class Tokenizer(NamedTuple):
    """A tokenizer that is not CLIP's.

    Attributes:
        tokenize: Maps a caption and a number T to tokens, int64 (1, T).
        identity: Tells it from other tokenizers, for the names of caches.
    """

    tokenize: Callable[[str, int], Tensor]
    identity: str


class Towers(NamedTuple):
    """What :func:`build_towers` returns.

    Attributes:
        model: The open_clip model.
        width: Dimension of its embeddings.
        tokenizer: Its tokenizer; ``None`` for CLIP's.
    """

    model: Any
    width: int
    tokenizer: Tokenizer | None


def build_towers(architecture: str, tag: str | None = None) -> Towers:
    """Builds both towers with open_clip, from a model name or a JSON file.

    Args:
        architecture: The name or file.
        tag: Weights of open_clip to download; random ones by default.

    Raises:
        UsageError: If open_clip cannot build the model, load its tokenizer or find the weights.
    """
    import open_clip  # takes seconds

    name, config = find_model(architecture)
    tokenizer = _find_tokenizer(architecture, name, config)
    if tag is not None:
        _download(name, tag)
    try:
        model: Any = open_clip.create_model(name, pretrained=tag, load_weights=tag is not None, pretrained_text=False)
    except Exception as error:  # whatever its settings make open_clip, timm or torch raise
        raise UsageError(f'model.architecture={architecture!r} cannot be built: {_reason(error)}') from error
    _check_square(architecture, model.visual.image_size)
    _freeze_unused(model)
    if tag is not None:
        check_finite(model.state_dict(), f'model.pretrained={tag!r}')
    return Towers(model, config['embed_dim'], tokenizer)


def _freeze_unused(model: Any) -> None:
    """Freezes what no embedding depends on: DDP waits for the gradient of every weight that is to be trained."""
    for name in UNUSED:
        if (part := getattr(model, name, None)) is not None:
            part.requires_grad_(False)


def find_model(architecture: str) -> tuple[str, dict[str, Any]]:
    """The name by which open_clip knows a model, and its settings in open_clip's format.

    Raises:
        UsageError: If there is no such model.
    """
    import open_clip

    if architecture.endswith('.json'):
        path = _config_file(architecture)
        config = _read_config(architecture, path)
        if path.name == SAVED_FOR_HUGGING_FACE:  # with preprocessing, and with its tokenizer's files beside it
            return f'local-dir:{path.parent}', config
        open_clip.add_model_config(path)
        return path.stem, config
    if architecture not in open_clip.list_models():
        raise UsageError(
            f'model.architecture={architecture!r} is not an open_clip model; choose one from open_clip.list_models(), '
            f'or give the path of a JSON file.'
        )
    return architecture, open_clip.get_model_config(architecture)


def _config_file(architecture: str) -> Path:
    """Path of the user's own JSON file or, failing that, of a shipped one."""
    folder = Path(__file__).parent / 'model_configs'
    for path in (Path(architecture), folder / architecture):
        if path.is_file():
            return path
    shipped = ', '.join(sorted(path.name for path in folder.glob('*.json')))
    raise UsageError(
        f'model.architecture={architecture!r} does not exist: give the path of a JSON file or the name of a shipped '
        f'one: {shipped}.'
    )


def _read_config(architecture: str, path: Path) -> dict[str, Any]:
    """The settings of a model. They are read here first, because open_clip never forgets a file that it cannot read."""
    try:
        config = json.loads(path.read_text('utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f'model.architecture={architecture!r} is not valid JSON: {_reason(error)}') from error
    if path.name == SAVED_FOR_HUGGING_FACE and isinstance(config, dict):
        config = config.get('model_cfg')
    given = config if isinstance(config, dict) else {}
    missing = [key for key, kind in NEEDED.items() if not isinstance(given.get(key), kind)]
    if missing:
        raise UsageError(
            f'model.architecture={architecture!r} is not an open_clip model: it lacks {", ".join(missing)}; '
            f'start from a shipped file in lightning_modules/model_configs.'
        )
    return given


def _find_tokenizer(architecture: str, name: str, config: dict[str, Any]) -> Tokenizer | None:
    """The tokenizer that open_clip has for a model; ``None`` for CLIP's, which the datamodules bring."""
    import open_clip

    settings = config['text_cfg']
    named = settings.get('hf_tokenizer_name') or ('of SigLIP' if 'siglip' in name.lower() else None)
    if not named and not settings.get('tokenizer_kwargs'):
        _check_vocabulary(architecture, settings, CLIP_VOCABULARY)
        return None
    try:
        tokenize: Any = open_clip.get_tokenizer(name)
    except Exception as error:  # as many kinds as packages take part in it
        raise UsageError(
            f'model.architecture={architecture!r} needs the tokenizer {named}, which cannot be loaded '
            f'({_reason(error)}): install transformers and go online once, or choose a model with the tokenizer of '
            f'CLIP.'
        ) from error
    inner = getattr(tokenize, 'tokenizer', None)  # that of Hugging Face
    _check_vocabulary(architecture, settings, int(tokenize.vocab_size) if inner is None else len(inner))
    probe = tokenize(string.printable, 256).tolist()
    identity = hashlib.sha256(json.dumps([name, settings, probe], sort_keys=True, default=str).encode()).hexdigest()
    return Tokenizer(tokenize, identity[:16])


def _check_vocabulary(architecture: str, settings: dict[str, Any], vocabulary: int) -> None:
    """Refuses a model whose tokenizer could give it tokens that it has no embedding for."""
    size = settings.get('vocab_size', CLIP_VOCABULARY)
    if 'hf_model_name' in settings or not isinstance(size, int):  # which brings its own, or cannot be built
        return
    if vocabulary > size:
        raise UsageError(
            f'model.architecture={architecture!r} has text_cfg.vocab_size={size}, but its tokenizer has {vocabulary} '
            f'tokens: raise it to that, or name the tokenizer that belongs to it in text_cfg.hf_tokenizer_name.'
        )


def _check_square(architecture: str, size: Any) -> None:
    sides = set(size) if isinstance(size, tuple | list) else {size}
    if len(sides) != 1:
        raise UsageError(f'model.architecture={architecture!r} takes pictures of {size}; only square ones are made.')


def _download(name: str, tag: str) -> None:
    """Refuses weights that open_clip does not have, and downloads the others, before it builds a model."""
    import open_clip

    config = open_clip.get_pretrained_cfg(name, tag)
    if not config:
        _check_file(tag)
        tags = ', '.join(open_clip.list_pretrained_tags_by_model(name)) or 'none, so leave it null'
        raise UsageError(f'model.pretrained={tag!r} is neither a file nor a tag of {name}. Its tags: {tags}.')
    try:
        open_clip.download_pretrained(config)
    except Exception as error:  # of any package that downloads
        raise UsageError(
            f'model.pretrained={tag!r} cannot be downloaded ({_reason(error)}): go online once, or give a file.'
        ) from error


def _check_file(path: str) -> None:
    """Refuses what looks like a path and is not one of a file, for which a list of tags would be no help."""
    if Path(path).is_dir():
        raise UsageError(
            f'model.pretrained={path!r} is a folder: give the file of weights in it, such as '
            f'open_clip_pytorch_model.bin.'
        )
    if len(Path(path).parts) > 1 or Path(path).suffix:
        raise UsageError(f'model.pretrained={path!r} does not exist: give the path of a file of weights, or a tag.')


def _reason(error: Exception) -> str:
    """The first line of what a library says, cut to a readable length."""
    first = next(iter(str(error).strip().splitlines()), '') or type(error).__name__
    return first if len(first) <= 160 else f'{first[:159]}…'
