"""The settings that decide a run as a file that repeats it: config.toml, out and in.

Its keys are those that `plan_run` takes, the options' names; `model` is a table.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..files import as_text, sha256, write_atomically
from ..settings.config import ModelConfig, Passage, TrainConfig
from ..text.collection import paths_of, text_files
from .config_file import CONFIG, RunConfig, read_config

TOML = "config.toml"
TEXT = ("data", "data_sha256", "first_line", "corpus_tokens")  # what says which text it is
TRAINING = tuple(f.name for f in fields(TrainConfig))
_PASSAGE = {"first_line": "first_line", "corpus_tokens": "tokens"}  # keys, and Passage's names
_TEXTS = ("run", "preset", "recipe", "init", "init_sha256", "data", "data_sha256")


def settings_of(config: RunConfig, name: str) -> dict[str, Any]:
    """The settings with which `plan_run` plans the run called `name` once more."""
    init = config.init
    settings: dict[str, Any] = {"run": name, "recipe": config.recipe}
    if len(config.chosen) > 1:
        settings |= {"data": [text.path for text in config.chosen]}
    else:
        (text,) = config.chosen
        settings |= {"data": text.path} if text.path else {}
        settings |= {"first_line": text.first_line, "corpus_tokens": text.tokens}
    settings |= {"data_sha256": config.hashes}
    settings |= config.train.to_json()
    if init:  # which has the shape too
        rehearse = {"rehearse": config.rehearsed > 0} if init.run else {}
        return settings | {"init": init.source, "init_sha256": init.sha256} | rehearse
    return settings | {"model": config.model.to_json()}


def write_settings(config: RunConfig, folder: Path) -> None:
    """Puts config.toml into a run's folder, each option with its help."""
    import tomlkit

    document = tomlkit.document()
    document.add(tomlkit.comment(f"Repeats this run: train --config {TOML} --run NAME"))
    for before in config.lengthened:
        document.add(tomlkit.comment(f"Made longer; before, it was {json.dumps(before)}"))
    settings = settings_of(config, as_text(folder.name))
    helps = {f.name: f.metadata["help"] for f in (*fields(ModelConfig), *fields(TrainConfig))}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            table = tomlkit.table()
            for key, entry in value.items():
                table.add(key, tomlkit.item(entry).comment(helps[key]))
            document.add(name, table)
            continue
        item = tomlkit.item(_as_text(value))
        document.add(name, item.comment(helps[name]) if name in helps else item)
    write_atomically(folder / TOML, tomlkit.dumps(document))


def _as_text(value: Any) -> Any:
    if isinstance(value, list):
        return list(map(_as_text, value))
    return as_text(value) if isinstance(value, str) else value


def read_settings(file: Path) -> dict[str, Any]:
    """The settings in a TOML file, or those of a run's config.json; paths in it are relative to its
    folder. Raises OSError, or ValueError for what is no TOML, and for keys and values that no run
    has."""
    if file.name == CONFIG:
        return settings_of(read_config(file.parent), file.absolute().parent.name)
    try:
        settings = tomllib.loads(file.read_bytes().decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not TOML: {error}") from None
    try:
        for name, value in settings.items():
            _check(name, value)
        for name in {"preset", "init"} & settings.keys() if "model" in settings else ():
            raise ValueError(f"{name} has a shape of its own; leave [model] out")
        if "model" in settings:
            settings["model"] = ModelConfig.from_json(settings["model"]).to_json()
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    there = file.parent
    if "data" in settings:
        data = settings["data"]
        several = [str(there / Path(path).expanduser()) for path in paths_of(data)]
        settings["data"] = several[0] if isinstance(data, str) else several
    if "init" in settings and (place := there / Path(settings["init"]).expanduser()).is_dir():
        settings["init"] = str(place)  # else it is a run, or on the hub
    return settings


def with_file(file: Path, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a file, with those `chosen` besides in their place.

    A chosen text, shape or recipe takes the place of all that the file says of it; a text that has
    only moved keeps its passage. Raises as `read_settings`, and FileNotFoundError where the text is
    not where the file says.
    """
    settings = read_settings(file)
    outdone: set[str] = set()
    own_text = {"data", "data_sha256"} & settings.keys()
    if own_text and "data" in chosen and not _is(chosen["data"], settings.get("data_sha256")):
        outdone |= {*TEXT}
    if chosen.keys() & {"preset", "init"}:
        outdone |= {"preset", "model", "init", "init_sha256"}
    if "recipe" in chosen:
        outdone |= {*TRAINING}
    if "epochs" in chosen:
        outdone |= {"steps"}  # which would count before epochs
    kept = {name: value for name, value in settings.items() if name not in outdone}
    for path in paths_of(kept["data"]) if "data" in kept and "data" not in chosen else ():
        if not Path(path).exists():
            raise FileNotFoundError(
                f"the text of {file} is not at {path}; say where it is with `data`"
            )
    return {**kept, **chosen}


def _is(data: Any, hashes: Any) -> bool:
    """Whether the texts at a path, or several, have those hashes, or that one, in this order."""
    files = text_files(data)
    there = all(file.is_file() for file in files)
    return there and [sha256(file) for file in files] == paths_of(hashes or [])


def _check(name: str, value: Any) -> None:
    """Raises ValueError for a key that there is not, or a value that it cannot have."""
    if name in TRAINING:
        TrainConfig.check(name, value)
    elif name in _PASSAGE:
        try:
            Passage.check(_PASSAGE[name], value)
        except ValueError as error:
            raise ValueError(str(error).replace(_PASSAGE[name], name, 1)) from None
    elif name == "rehearse":
        if not isinstance(value, bool):
            raise ValueError(f"rehearse is {value!r}; it must be true or false")
    elif name in ("data", "data_sha256") and isinstance(value, list):
        if not (value and all(isinstance(entry, str) for entry in value)):
            raise ValueError(f"{name} is {value!r}; it must be a text, or a list of some")
    elif name in _TEXTS:
        if not isinstance(value, str) or not value:
            raise ValueError(f"{name} is {value!r}; it must be some text")
    elif name == "model":
        if not isinstance(value, dict):
            raise ValueError(f"model is {value!r}; it must be a table, [model]; see `preset` too")
    else:
        shape = {f.name for f in fields(ModelConfig)}
        where = "; it belongs below [model]" if name in shape else ""
        known = ", ".join(sorted([*TRAINING, *_PASSAGE, *_TEXTS, "model", "rehearse"]))
        raise ValueError(f"no key {name!r}{where or f'; there are {known}'}")
