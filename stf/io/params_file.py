"""A params.yaml as a dict: a small plain file of sections, without YAML's ways to mean more than it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from stf.errors import ConfigError
from stf.io.files import read_bounded

MAX_YAML_BYTES = 200_000  # ours has 5,000; PyYAML reads a megabyte in ten seconds
MAX_DEPTH = 20
_PLAIN = {
    "int": re.compile(r"[-+]?(0|[1-9]\d*)"),
    "float": re.compile(
        r"[-+]?((0|[1-9]\d*)\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
    ),
}


class _Loader(yaml.SafeLoader):
    """Reads 1e-05 as a number, as YAML 1.2 and DVC do: `dvc exp run -S phase_a.lr=1.0e-5` writes 1e-05.

    Refuses what a few lines can blow up with or hide behind: anchors and aliases (a file of 1 kB can stand for a
    billion values), tags, a key given twice (YAML takes the last in silence), nesting without end.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuses aliases, anchors, tags and depth before anything is built of them."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.MarkedYAMLError(
                None, None, "anchors and aliases are not read; write it out", event.start_mark
            )
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(
                None, None, "tags (!) are not read; write a plain value", event.start_mark
            )
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(None, None, "it nests too deep", event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(node, yaml.ScalarNode) and node.style is None and _reads_otherwise(node):
            raise yaml.MarkedYAMLError(
                None,
                None,
                f"the number {node.value[:60]!r} is one thing to YAML 1.1 and another to YAML 1.2, and so to DVC; "
                "write plain digits without leading zeros, colons and underscores",
                node.start_mark,
            )
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuses a key that stands twice."""
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value == "<<":
                raise yaml.MarkedYAMLError(
                    None, None, "merge keys (<<) are not read; write it out", key.start_mark
                )
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    None, None, f"the key {key.value[:60]!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _reads_otherwise(node: yaml.ScalarNode) -> bool:
    """Whether a number means something else in YAML 1.2: 010 is 8 in YAML 1.1, 1:30 is 90 and 0b11 is 3."""
    kind = str(node.tag).rpartition(":")[2]
    return kind in _PLAIN and _PLAIN[kind].fullmatch(node.value) is None


def read_params_file(path: Path) -> dict[Any, Any]:
    """The sections of a params.yaml; raises ConfigError naming the file, and the line where YAML tells it."""
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
        raise ConfigError(f"{path} is no text in UTF-8 (byte {error.start}); save it as such") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or number that only looks like one
        what = " ".join(str(error).replace("<unicode string>", path.name).split())[:300]
        raise ConfigError(f"{path} is not valid YAML: {what}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no key: value lines; profiles/sample.yaml shows what belongs there")
    return values
