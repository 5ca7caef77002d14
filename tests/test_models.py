"""The packaged models: every name has a file that says what it is, and an example that fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from crn_fast import checkpoint, layout, models
from crn_fast.errors import UsageError

MIB = 1 << 20


@pytest.mark.parametrize("name", models.SIZES)
def test_a_packaged_model_is_what_it_is_called(name: str) -> None:
    path = models.path_of(name)
    found = checkpoint.load(path)
    assert found.kind == "cascade" and found.labels.name == models.LABEL_SET
    assert found.spec.size == models.SIZES[name]
    assert found.spec.images == (4 if name.endswith("-diverse") else 1)
    assert "Non-commercial" in found.notes["licence"]
    assert path.stat().st_size <= 16 * MIB
    example = layout.read(models.example_of(name), found.labels)
    assert example.array.shape == found.spec.size


def test_no_file_is_left_out_and_all_are_small() -> None:
    folder = models.path_of(models.DEFAULT).parent
    assert {path.stem for path in folder.glob("*.safetensors")} == set(models.SIZES)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 40 * MIB


def test_a_layout_without_a_model_gets_one_of_its_size() -> None:
    assert models.resolve(None, (256, 512)) == models.path_of("street-256")
    assert models.resolve(None, (1024, 2048)) == models.path_of("street-1024")
    assert models.resolve(None, (7, 7)) == models.path_of(models.DEFAULT)


def test_a_file_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert models.resolve("street-256") == models.path_of("street-256")
    Path("street-256").touch()
    assert models.resolve("street-256") == Path("street-256")


def test_unknown_names_list_what_there_is() -> None:
    known = "street-1024, street-256, street-256-diverse"
    with pytest.raises(UsageError, match=f"neither a file nor one of {known}"):
        models.path_of("street-9")
    with pytest.raises(UsageError, match=f"'street-9'; there are {known}"):
        models.example_of("street-9")
