"""A training loop's moving parts as one safetensors file, and back, to the bit.

What a loop keeps (modules, optimizers, generators, dictionaries of carried state) is turned into a
*tree* of plain values and arrays. The arrays go into the file by number; the tree around them, with
every key and every tuple as it was, goes into the metadata as JSON. There is no pickle.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

import microtensor as mt


def save_tree(path: str | os.PathLike[str], tree: Any) -> None:
    """Write a tree of dictionaries, lists, tuples, numbers, strings, arrays and tensors.

    Raises TypeError, naming the place in the tree, for anything else.
    """
    arrays: dict[str, np.ndarray] = {}
    skeleton = _encode(tree, arrays, "the tree")
    mt.save(path, arrays, {"tree": json.dumps(skeleton)})


def load_tree(path: str | os.PathLike[str]) -> Any:
    """Read what `save_tree` wrote; tensors come back where new tensors live.

    Raises LoadError (an OSError) for a file that is missing, damaged or not from `save_tree`.
    """
    saved = mt.load(path, backend="numpy")
    if "tree" not in saved.metadata:
        raise OSError(f"{os.fspath(path)} is not a checkpoint: it holds no tree")
    return _decode(json.loads(saved.metadata["tree"]), saved)


def capture(kept: Mapping[str, Any]) -> dict[str, Any]:
    """The present state of the objects a loop keeps, as a tree.

    Raises TypeError for an object that has neither `state_dict` nor `get_state` and is no dict.
    """
    return {name: _state(name, thing) for name, thing in kept.items()}


def restore(kept: Mapping[str, Any], tree: Mapping[str, Any]) -> None:
    """Put a captured state back into the same objects, in place.

    Raises ValueError if other objects are kept now than were kept then.
    """
    if set(kept) != set(tree):
        raise ValueError(
            f"the checkpoint keeps {sorted(tree)}, the experiment now keeps {sorted(kept)}; "
            "it was written by another version of the experiment: start again without --resume"
        )
    for name, thing in kept.items():
        if hasattr(thing, "load_state_dict"):
            thing.load_state_dict(tree[name])
        elif hasattr(thing, "set_state"):
            thing.set_state(tree[name])
        else:
            thing.clear()
            thing.update(tree[name])


def _state(name: str, thing: Any) -> Any:
    if hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict"):
        return thing.state_dict()
    if hasattr(thing, "get_state") and hasattr(thing, "set_state"):
        return thing.get_state()
    if isinstance(thing, dict):
        return thing
    raise TypeError(
        f"steps(..., {name}=...) keeps objects with state_dict or get_state, and dictionaries; "
        f"got a {type(thing).__name__}: put it into a dictionary that the loop updates"
    )


def _encode(value: Any, arrays: dict[str, np.ndarray], where: str) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            # json writes a float by its shortest exact text, and NaN and the infinities by name.
            return value if not isinstance(value, np.generic) else _array("array", value, arrays)
        case mt.Tensor():
            kind = "leaf" if value.requires_grad else "tensor"
            return _array(kind, value.detach().numpy(), arrays)
        case np.ndarray() | np.generic():
            return _array("array", value, arrays)
        case Mapping():
            return {
                "dict": [
                    [_key(key, where), _encode(item, arrays, f"{where}[{key!r}]")]
                    for key, item in value.items()
                ]
            }
        case list() | tuple():
            kind = "list" if isinstance(value, list) else "tuple"
            return {kind: [_encode(item, arrays, f"{where}[{i}]") for i, item in enumerate(value)]}
    raise TypeError(f"{where} is a {type(value).__name__}, which a checkpoint cannot hold")


def _key(key: Any, where: str) -> Any:
    if isinstance(key, str | int) and not isinstance(key, bool):
        return key
    raise TypeError(f"{where} has the key {key!r}; a checkpoint's keys are strings and integers")


def _array(kind: str, value: Any, arrays: dict[str, np.ndarray]) -> dict[str, str]:
    name = f"{len(arrays):06d}"
    arrays[name] = np.asarray(value)
    return {kind: name}


def _decode(node: Any, arrays: Mapping[str, mt.Tensor]) -> Any:
    if not isinstance(node, dict):
        return node
    [(kind, content)] = node.items()
    match kind:
        case "dict":
            return {key: _decode(item, arrays) for key, item in content}
        case "list":
            return [_decode(item, arrays) for item in content]
        case "tuple":
            return tuple(_decode(item, arrays) for item in content)
        case "array":
            return arrays[content].numpy()
    return mt.tensor(arrays[content].numpy(), requires_grad=kind == "leaf")
