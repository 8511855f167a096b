"""Reads a params.yaml: a small plain file of sections, without the parts of YAML that can hide something."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from stf.errors import ConfigError
from stf.io.files import read_bounded

MAX_YAML_BYTES = 200_000  # ours has 5,000; PyYAML takes ten seconds for a megabyte
MAX_DEPTH = 20
_PLAIN = {
    "int": re.compile(r"[-+]?(0|[1-9]\d*)"),
    "float": re.compile(
        r"[-+]?((0|[1-9]\d*)\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
    ),
}


class _Loader(yaml.SafeLoader):
    """Reads 1e-05 as a number, as YAML 1.2 and DVC do: `dvc exp run -S phase_a.lr=1.0e-5` writes 1e-05.

    Refuses what can hide something or use up memory: anchors and aliases (1 kB can expand to a billion values), tags, a
    key given twice (YAML silently takes the last), deep nesting.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuses aliases, anchors, tags and depth before anything is built of them."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.MarkedYAMLError(
                None, None, "anchors and aliases are not allowed; write the value out", event.start_mark
            )
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(
                None, None, "tags (!) are not allowed; write a plain value", event.start_mark
            )
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(None, None, "the nesting is too deep", event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(node, yaml.ScalarNode) and node.style is None and _is_ambiguous(node):
            raise yaml.MarkedYAMLError(
                None,
                None,
                f"YAML 1.1 and YAML 1.2, which DVC reads, take {node.value[:60]!r} for different numbers; "
                "write plain digits without leading zeros, colons and underscores",
                node.start_mark,
            )
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuses a key that appears twice."""
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value == "<<":
                raise yaml.MarkedYAMLError(
                    None, None, "merge keys (<<) are not allowed; write the keys out", key.start_mark
                )
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    None, None, f"the key {key.value[:60]!r} appears twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _is_ambiguous(node: yaml.ScalarNode) -> bool:
    """Whether YAML 1.2 reads a number differently: in YAML 1.1, 010 is 8, 1:30 is 90 and 0b11 is 3."""
    kind = str(node.tag).rpartition(":")[2]
    return kind in _PLAIN and _PLAIN[kind].fullmatch(node.value) is None


def read_params_file(path: Path) -> dict[Any, Any]:
    """The sections of a params.yaml; raises ConfigError with the file, and with the line for an error in the YAML."""
    try:
        text = read_bounded(path, MAX_YAML_BYTES).decode("utf-8-sig")
        values = yaml.load(text, Loader=_Loader)
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist; run from the repository's root or give --params FILE"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; give a params.yaml") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: what looks like a date or a number and is not
        what = " ".join(str(error).replace("<unicode string>", path.name).split())[:300]
        raise ConfigError(f"{path} is not valid YAML: {what}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} has no sections of key: value lines; profiles/sample.yaml is an example")
    return values
