#!/usr/bin/env bash
# jsonargparse 4.53.0 turns a null into the string 'None' two classes down.
#
# Versions: jsonargparse[signatures] 4.53.0, Python 3.11.
#
# Setting: `Model` takes an `Encoder`, and `Encoder` takes `pretrained: str | None = 'openai'`. The parser declares
# `--model` with add_subclass_arguments, as LightningCLI does in subclass mode.
#
# Expected: `null` on the command line means None at every depth. It does for the model's own arguments, and
# `--model.encoder.pretrained=null` should train an encoder from scratch.
#
# What happens: one class deeper, the encoder receives the four letters 'None'. Nothing is reported, since 'None' is
# a valid `str | None`; code that tests `if pretrained is not None` looks for weights of that name. The same null for
# a `float | None` is refused as a string. The value is correct when `--model` is declared with add_class_arguments,
# or when the encoder is given as one JSON value.
#
# Output seen:
#   --model.name=null                                 -> None
#   --model.encoder.pretrained=null                   -> 'None'
#   --model.encoder.dropout=null                      -> refused
#   --model.encoder={..."pretrained": null...}        -> None
#   add_class_arguments, ...encoder.pretrained=null   -> None
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet 'jsonargparse[signatures]==4.53.0'

cat > "$folder/main.py" <<'PYTHON'
from __future__ import annotations

import sys

from jsonargparse import ArgumentError, ArgumentParser


class Encoder:
    def __init__(self, pretrained: str | None = 'openai', dropout: float | None = 0.1):
        self.pretrained = pretrained
        self.dropout = dropout


class Model:
    def __init__(self, encoder: Encoder, name: str | None = 'clip'):
        self.encoder = encoder
        self.name = name


def build(arguments, subclass_mode=True):
    parser = ArgumentParser(exit_on_error=False)
    if subclass_mode:
        parser.add_subclass_arguments(Model, 'model')
        arguments = ['--model=Model', *arguments]
    else:
        parser.add_class_arguments(Model, 'model')
    return parser.instantiate(parser.parse_args(arguments)).model


def show(label, value):
    print(f'{label:<49} -> {value}')


own = build(['--model.encoder=Encoder', '--model.name=null']).name
nested = build(['--model.encoder=Encoder', '--model.encoder.pretrained=null']).encoder.pretrained
try:
    build(['--model.encoder=Encoder', '--model.encoder.dropout=null'])
    number = 'accepted'
except ArgumentError:
    number = 'refused'
whole = build(['--model.encoder={"class_path": "Encoder", "init_args": {"pretrained": null}}']).encoder.pretrained
group = build(['--model.encoder=Encoder', '--model.encoder.pretrained=null'], subclass_mode=False).encoder.pretrained

show('--model.name=null', repr(own))
show('--model.encoder.pretrained=null', repr(nested))
show('--model.encoder.dropout=null', number)
show('--model.encoder={..."pretrained": null...}', repr(whole))
show('add_class_arguments, ...encoder.pretrained=null', repr(group))
as_described = own is None and nested == 'None' and number == 'refused' and whole is None and group is None
sys.exit(0 if as_described else 1)
PYTHON
"$folder/venv/bin/python" "$folder/main.py"
