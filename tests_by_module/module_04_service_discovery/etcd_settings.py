"""What etcd was started with, and which of it is a fault: read from etcd_settings.yaml."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from fixtures.basics.errors import CouldNotLook
from fixtures.basics.printable import head
from fixtures.cluster.nodes import Node
from fixtures.cluster.probes.probe import families

TABLE = Path(__file__).with_name("etcd_settings.yaml")
# where there is one, etcd looks at nothing else
CONFIG_FILE = "config-file"


class Setting(BaseModel):
    """An entry of etcd_settings.yaml; its words are explained there."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    flag: str
    wrong: bool | int
    why: str
    source: str

    def is_wrong(self, value: str) -> bool:
        if self.wrong is True:
            return value.lower() in ("true", "1", "t")
        return value.isdigit() and int(value) >= self.wrong


@cache
def table() -> tuple[Setting, ...]:
    return TypeAdapter(tuple[Setting, ...]).validate_python(tuple(YAML(typ="safe").load(TABLE)))


def given(node: Node, pid: int) -> dict[str, tuple[str, str]]:
    """By flag its value and where it stands, of the etcd with that process. Raises RemoteError, CouldNotLook."""
    names = {variable(flag): flag for flag in (*(each.flag for each in table()), CONFIG_FILE)}
    process = families(node, [pid], names)[pid][0]
    found = {names[name]: (value, f"{name}={value}") for name, value in process["environment"].items()}
    found |= {flag: (value, f"--{flag}={value}") for flag, value in flags(process["argv"])}
    if CONFIG_FILE not in found:
        return found
    path, _ = found[CONFIG_FILE]
    # as the process sees it: from its own folder, or in its container
    there = f"/proc/{pid}/{'root' if path.startswith('/') else 'cwd/'}{path}"
    try:
        content: Any = YAML(typ="safe").load(node.get(there))
    except YAMLError as error:
        raise CouldNotLook(f"etcd's configuration {path} on {node.name} is not YAML: {head(str(error))}") from None
    if not isinstance(content, Mapping):
        raise CouldNotLook(f"etcd's configuration {path} on {node.name} holds no settings")
    return {str(flag): (str(value), f"{flag}: {value} in {path}") for flag, value in content.items()}


def variable(flag: str) -> str:
    return f"ETCD_{flag.upper().replace('-', '_')}"


def flags(argv: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Those of a command line; one without a value is switched on."""
    for word, following in zip(argv, [*argv[1:], "-"], strict=True):
        if word.startswith("-"):
            flag, equals, value = word.lstrip("-").partition("=")
            yield flag, value if equals else "true" if following.startswith("-") else following


def wrong_settings(found: Mapping[str, tuple[str, str]]) -> list[str]:
    """Those at fault, in words: where each stands, and why it is one."""
    told = [(setting, *found[setting.flag]) for setting in table() if setting.flag in found]
    return [f"{where}: {setting.why}" for setting, value, where in told if setting.is_wrong(value)]
