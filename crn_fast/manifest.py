"""What an engine file says of itself, and the command that builds it again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from crn_fast import container
from crn_fast.baselines.spec import BaselineSpec
from crn_fast.errors import BadInput, Mismatch
from crn_fast.palette import LabelSet
from crn_fast.spec import CascadeSpec

FORMAT = "crn_fast.engine"
VERSION = 1
_BATCH = re.compile(r"[0-9]{1,6}( to [0-9]{1,6})?")


@dataclass(frozen=True)
class Manifest:
    """What an engine file says of itself."""

    spec: CascadeSpec | BaselineSpec
    """Of an engine file always a cascade's."""
    labels: LabelSet
    backend: str
    precision: str
    """As asked for when built; 'auto' lets the device decide when it is opened."""
    target: str
    """Machine it was built for; 'any' when its payload runs everywhere."""
    checkpoint_sha256: str
    """`Checkpoint.sha256` of what it was built from."""
    built_with: Mapping[str, str]
    notes: Mapping[str, str]

    _PLAIN = ("backend", "precision", "target", "checkpoint_sha256")

    def to_metadata(self) -> dict[str, str]:
        return {
            "format": FORMAT,
            "version": str(VERSION),
            "spec": self.spec.to_json(),
            "labels": self.labels.to_json(),
            "built_with": json.dumps(dict(self.built_with)),
            "notes": json.dumps(dict(self.notes)),
            **{name: getattr(self, name) for name in self._PLAIN},
        }

    @classmethod
    def from_metadata(cls, source: str, metadata: Mapping[str, str]) -> Manifest:
        """Read what `to_metadata` wrote.

        Raises:
            BadInput: not an engine, or its manifest cannot be read.
            Mismatch: an engine of another format version.
        """
        if metadata.get("format") != FORMAT:
            named = quote(source), quote(str(Path(source).with_suffix(".safetensors")))
            raise BadInput(
                f"{source}: not an engine (its format is {metadata.get('format')!r:.40}); a "
                f"checkpoint is known by its ending: `mv -n {' '.join(named)}`"
            )
        if metadata.get("version") != str(VERSION):
            raise Mismatch(
                f"{source}: engine version {metadata.get('version')!s:.40}; this crn_fast opens "
                f"{VERSION}: {rebuild(source)}"
            )
        try:
            spec = CascadeSpec.from_json(metadata["spec"])
            labels = LabelSet.from_json(metadata["labels"])
            if labels.classes != spec.classes:
                raise ValueError(f"{spec.classes} classes, but labels of {labels.classes}")
            built_with = container.json_table(metadata["built_with"], "built_with")
            notes = container.json_table(metadata["notes"], "notes")
            plain = {name: metadata[name] for name in cls._PLAIN}
            for text in (*plain.values(), *built_with, *built_with.values()):
                if not text.isprintable() or len(text) > 200:
                    raise ValueError(f"{text!r:.40} is no line of text")
            if not _BATCH.fullmatch(built_with.get("batch", "1")):
                raise ValueError(f"batch is {built_with['batch']!r:.40}")
            return cls(spec, labels, built_with=built_with, notes=notes, **plain)
        except (KeyError, ValueError) as error:
            raise BadInput(f"{source}: its manifest cannot be read ({error})") from None

    def asked(self) -> dict[str, str]:
        """The options of `crn-fast build-engine` that gave it, but for its target."""
        batch = self.built_with.get("batch", "1").replace(" to ", "-")
        plain = {"backend": self.backend, "precision": self.precision}
        return plain | ({"batch": batch} if batch != "1" else {})


def rebuild(path: str | Path, **options: str) -> str:
    """The hint for an engine file that must be built again, with these of `build-engine`'s."""
    more = "".join(f" --{name} {quote(value)}" for name, value in options.items())
    return f"rebuild it: `crn-fast build-engine CKPT -o {quote(str(path))} --force{more}`"
