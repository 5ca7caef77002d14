"""The folder of a newcomer after an hour: some sound files, and more that are not."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
from pathlib import Path

import numpy as np

from hostile.command_line import run


def make_scene(root: Path) -> Path:
    """Make it; what is in it is named by mistakes.txt."""
    import torch
    from PIL import Image

    import scene
    import tiny
    from crn_fast import checkpoint, container, engine, layout, models
    from crn_fast.palette import label_set

    root.mkdir()
    camvid, cityscapes = label_set("camvid"), label_set("cityscapes")
    rng = np.random.default_rng(0)

    # street.png fits the packaged street-256, layout.png the tiny networks.
    street = layout.read(models.example_of("street-256"), camvid)
    shutil.copy(street.source, root / "street.png")
    layout.write(layout.from_array(street.array[::2, ::2], camvid), root / "half.png")
    layout.write(layout.from_array(street.array.T, camvid), root / "tall.png")
    spec = dataclasses.replace(tiny.SPEC, images=1)
    small = layout.from_array(tiny.labels_array(1, spec)[0], camvid)
    for name in ("layout.png", "drive/000.png", "drive/001.png", "my scenes/straße 1.png"):
        (root / name).parent.mkdir(exist_ok=True)
        layout.write(small, root / name)
    shutil.copy(street.source, root / "my scenes/große straße.png")
    painted = layout.colorize(street)
    photo = (painted + rng.integers(0, 60, painted.shape)).clip(0, 255).astype(np.uint8)
    for folder in ("holiday", "empty"):
        (root / folder).mkdir()
    for name in ("photo.png", "photo.jpg", "holiday/beach.jpg"):
        Image.fromarray(photo).save(root / name)
    Image.fromarray(painted).save(root / "street.jpg")
    Image.fromarray(rng.integers(0, 65535, (256, 512), np.uint16)).save(root / "depth.png")

    trained = np.kron(rng.integers(0, 19, (8, 16), np.uint8), np.ones((32, 32), np.uint8))
    ids = np.array([next(i for i, to in cityscapes.ids.items() if to == k) for k in range(19)])
    city = root / "aachen_gtFine"
    Image.fromarray(layout.colorize(layout.from_array(trained, cityscapes))).save(
        f"{city}_color.png"
    )
    Image.fromarray(ids[trained].astype(np.uint8)).save(f"{city}_labelIds.png")
    Image.fromarray((1000 * ids[trained] + 3).astype(np.uint16)).save(f"{city}_instanceIds.png")

    net = tiny.save_checkpoint(root / "net.safetensors", spec)
    tiny.save_checkpoint(root / "ckpt.pt", spec)
    made = checkpoint.load(net)
    engine.build_engine(made, root / "net.crn", backend="native")
    shutil.copy(root / "net.crn", root / "engine.safetensors")
    shutil.copy(net, root / "street.crn")
    sick = {name: np.full_like(tensor, np.nan) for name, tensor in made.tensors.items()}
    container.write(root / "nan.safetensors", sick, checkpoint.header(made))
    stranger = {"model.diffusion_model.input_blocks.0.0.weight": np.zeros((4, 4), np.float32)}
    import safetensors.numpy

    safetensors.numpy.save_file(stranger, root / "sd.safetensors")
    torch.save({"state_dict": {"conv1.weight": torch.zeros(3)}, "epoch": 3}, root / "resnet.pt")
    torch.save(torch.nn.Linear(2, 2), root / "whole.pt")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123456\n"
    page = "<!DOCTYPE html>\n<html><title>404 Not Found</title></html>\n"
    for ending in ("png", "safetensors", "crn", "pt"):
        (root / f"lfs.{ending}").write_text(pointer)
        (root / f"page.{ending}").write_text(page)
    for name in ("street.png", "net.safetensors", "net.crn", "ckpt.pt"):
        (root / f"cut.{name.partition('.')[2]}").write_bytes((root / name).read_bytes()[:-200])
    (root / "nothing.png").touch()

    torch.save(scene.vgg_state(), root / "vgg.pth")
    data = scene.write_pairs(root / "DATA", 3)
    shutil.copytree(data / "labels", root / "SWAPPED/photos")
    (root / "SWAPPED/labels").mkdir()
    for path in (root / "SWAPPED/photos").iterdir():
        Image.fromarray(photo[:24, :40]).save(root / "SWAPPED/labels" / path.name)
    shutil.copytree(data, root / "LONELY")
    (root / "LONELY/labels/1.png").rename(root / "LONELY/labels/one.png")
    recipe = (
        'label_set = "camvid"\n[network]\nwidths = [4, 4, 4]\nbase = [4, 8]\nclasses = 12\n'
        '[loss]\nweights = "vgg.pth"\ncalibrate_at = 0\n[training]\nsteps = 1\nworkers = 0\n'
    )
    for name, text in {
        "my": recipe,
        "unknown": recipe + "bach = 2\n",
        "typed": recipe + 'batch = "two"\n',
        "syntax": recipe + "batch = = 2\n",
        "classes": recipe.replace("classes = 12", "classes = 20"),
    }.items():
        (root / f"{name}.toml").write_text(text)
    trained = run(shlex.split("train DATA -c my.toml --out old"), root)
    assert trained.code == 0, trained.err
    return root
