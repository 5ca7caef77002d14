"""The baseline networks and adversarial losses: they are what was published, learn, and resume."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

from crn_fast import checkpoint, cli  # noqa: E402
from crn_fast.baselines.dilated import DILATIONS, Dilated  # noqa: E402
from crn_fast.baselines.spec import BaselineSpec, Kind  # noqa: E402
from crn_fast.baselines.unet import UNet  # noqa: E402
from crn_fast.engine import Engine, build_engine  # noqa: E402
from crn_fast.errors import BadInput, Mismatch  # noqa: E402
from crn_fast.kernels.reference import one_hot, to_uint8  # noqa: E402
from crn_fast.palette import label_set  # noqa: E402
from crn_fast.training import recipe as recipes  # noqa: E402
from crn_fast.training.losses.adversarial import AdversarialLoss, PatchDiscriminator  # noqa: E402
from crn_fast.training.losses.gan_semantic import GanSemanticLoss  # noqa: E402
from crn_fast.training.losses.pix2pix import Pix2PixLoss  # noqa: E402
from crn_fast.training.recipe import Recipe  # noqa: E402
from crn_fast.training.trainer import Trainer  # noqa: E402
from scene import vgg_state, write_pairs  # noqa: E402

CLASSES = 12
ADVERSARIAL: dict[str, type[Pix2PixLoss] | type[GanSemanticLoss]] = {
    "pix2pix": Pix2PixLoss,
    "gan-semantic": GanSemanticLoss,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    torch.set_num_threads(1)  # on maps this small, more would wait for each other
    torch.save(vgg_state(), tmp_path / "vgg19.pth")
    return write_pairs(tmp_path / "data")


def make(root: Path, name: str, out: str = "run", width: int = 8, **training: Any) -> Trainer:
    """The shipped recipe of that name, at the size of the tiny scene."""
    table = recipes.read(f"baseline-{name}").to_dict()
    options = {key: training.pop(key) for key in ("resume", "init_from") if key in training}
    table["network"] |= {"widths": [8, 8, 8, 6], "base": [3, 5]}
    table["data"], table["validation"] = [{}], None
    table["loss"]["weights"] = str(root.parent / "vgg19.pth")
    if table["baseline"]:
        table["baseline"]["width"] = width
    settings = {"steps": 20, "epochs": 0, "batch": 2, "workers": 0, "sample_every": 20}
    table["training"] |= settings | {"deterministic": True} | training
    return Trainer(Recipe.from_dict(table), root, root.parent / out, label_set("camvid"), **options)


def train(trainer: Trainer, stop_at: int = 0) -> list[Any]:
    progress = list(trainer.run(lambda: trainer.step == stop_at))
    trainer.close()
    return progress


def layouts(size: tuple[int, int], count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(CLASSES, (count, *size), generator=generator).to(torch.uint8)


@pytest.mark.parametrize("kind", ["unet", "dilated"])
@pytest.mark.parametrize("size", [(2, 3), (13, 18), (24, 40), (31, 17)])
def test_one_picture_a_layout_at_any_size(kind: Kind, size: tuple[int, int]) -> None:
    spec = BaselineSpec(kind, size, CLASSES, 4)
    network = spec.build()
    labels = layouts(size)
    rgb = network(labels)
    assert rgb.shape == (2, 1, *size, 3) and rgb.dtype == torch.float32
    # No sample sees another.
    torch.testing.assert_close(network(labels[1:])[0], rgb[1], rtol=0, atol=1e-2)
    assert spec.parameters() == sum(p.numel() for p in network.parameters())
    assert BaselineSpec.from_json(spec.to_json()) == spec


def test_the_unet_is_the_published_one() -> None:
    network = UNet((256, 256), classes=3, width=64)
    down, up = ([(c.in_channels, c.out_channels) for c in cs] for cs in (network.down, network.up))
    assert down == [*pairwise((3, 64, 128, 256, 512, 512, 512, 512, 512))]
    assert [outputs for _, outputs in up] == [512, 512, 512, 512, 256, 128, 64, 3]
    assert [inputs for inputs, _ in up] == [512, 1024, 1024, 1024, 1024, 512, 256, 128]
    # As the authors' PyTorch code counts for 3 + 3 channels: 54.414 and 2.769 million.
    assert sum(p.numel() for p in network.parameters()) == 54_413_955
    assert sum(p.numel() for p in PatchDiscriminator(6).parameters()) == 2_768_705


def test_the_discriminator_judges_patches_of_70_pixels() -> None:
    convs = [m for m in PatchDiscriminator(6) if isinstance(m, torch.nn.Conv2d)]
    field = 1
    for conv in reversed(convs):
        field = (field - 1) * conv.stride[0] + conv.kernel_size[0]
    assert field == 70
    assert PatchDiscriminator(6, 5, width=4)(torch.zeros(2, 6, 256, 256)).shape == (2, 5, 30, 30)


def test_unet_against_plain_functions() -> None:
    torch.manual_seed(0)
    network = UNet((13, 18), CLASSES, width=4).double()
    shuffle(network)
    labels = layouts((13, 18))
    x, skips = one_hot(labels, CLASSES, torch.float64), []
    sizes = [(13, 18), (6, 9), (3, 4)]
    weights = dict(network.named_parameters())
    for level in range(3):
        x = F.leaky_relu(x, 0.2) if level else x
        x = F.conv2d(x, weights[f"down.{level}.weight"], stride=2, padding=1)
        if level == 1:
            gamma, beta = weights["down_norms.1.weight"], weights["down_norms.1.bias"]
            x = F.instance_norm(x, weight=gamma, bias=beta)
        skips.append(x)
    for step, size in enumerate(reversed(sizes)):
        x = F.relu(x if step == 0 else torch.cat([x, skips[2 - step]], 1))
        extra = [s - 2 * n for s, n in zip(size, x.shape[-2:], strict=True)]
        x = F.conv_transpose2d(x, weights[f"up.{step}.weight"], None, 2, 1, extra)
        if step < 2:
            gamma, beta = weights[f"up_norms.{step}.weight"], weights[f"up_norms.{step}.bias"]
            x = F.instance_norm(x, weight=gamma, bias=beta)
    x = (x + weights["up.2.bias"].view(-1, 1, 1)).tanh()
    torch.testing.assert_close(network(labels)[:, 0], (x.movedim(1, -1) + 1) * 127.5)


def test_dilated_against_plain_functions() -> None:
    torch.manual_seed(0)
    network = Dilated((13, 18), CLASSES, width=4).double()
    shuffle(network)
    labels = layouts((13, 18))
    layout = x = one_hot(labels, CLASSES, torch.float64)
    weights = dict(network.named_parameters())
    assert len(network.convs) == 5  # a dilation of 16 reaches beyond 13 pixels
    for i, dilation in enumerate((1, 2, 4, 8, 1)):
        x = torch.cat([x, layout], 1) if i else x
        x = F.conv2d(x, weights[f"convs.{i}.weight"], padding=dilation, dilation=dilation)
        x = F.layer_norm(x, x.shape[1:])
        gamma, beta = (weights[f"norms.{i}.{n}"].view(-1, 1, 1) for n in ("weight", "bias"))
        x = F.leaky_relu(x * gamma + beta, 0.2)
    x = F.conv2d(x, weights["head.weight"], weights["head.bias"])
    torch.testing.assert_close(network(labels)[:, 0], (x.movedim(1, -1) + 1) * 127.5)
    assert [c.dilation[0] for c in Dilated((128, 256), CLASSES).convs] == [*DILATIONS]


def shuffle(network: torch.nn.Module) -> None:
    """Give every parameter, norms too, values of its own."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter))


@pytest.mark.parametrize("kind", ["unet", "dilated"])
def test_gradients_reach_every_parameter_of_a_network(kind: Kind) -> None:
    network = BaselineSpec(kind, (24, 40), CLASSES, 4).build()
    rgb = network(layouts((24, 40)))
    (rgb * torch.randn(rgb.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def example(kind: str) -> tuple[AdversarialLoss, Tensor, Tensor, Tensor]:
    """A loss in float64 with pictures [2, 1, 3, 25, 41], photos and labels of twice the size."""
    torch.manual_seed(0)
    loss = ADVERSARIAL[kind](classes=CLASSES, width=4).double()
    pictures, photos = torch.rand(2, 2, 3, 25, 41, dtype=torch.float64) * 255
    return loss, pictures[:, None].requires_grad_(), photos, layouts((50, 82))


def inputs(photos: Tensor, pictures: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Layout shares, photo and picture as a discriminator sees them."""
    shares = F.adaptive_avg_pool2d(one_hot(labels, CLASSES, torch.float64), (25, 41))
    return shares, photos / 127.5 - 1, pictures[:, 0] / 127.5 - 1


def misread(scores: Tensor, shares: Tensor) -> Tensor:
    """Cross-entropy, pixel by pixel."""
    n, _, height, width = scores.shape
    total = torch.zeros((), dtype=torch.float64)
    coarse = F.adaptive_avg_pool2d(shares, (height, width))
    for i, y, x in np.ndindex(n, height, width):
        logs = scores[i, :, y, x] - scores[i, :, y, x].exp().sum().log()
        total = total - (coarse[i, :, y, x] * logs).sum()
    return total / (n * height * width)


def test_pix2pix_against_its_equations() -> None:
    loss, pictures, photos, labels = example("pix2pix")
    shares, photo, picture = inputs(photos, pictures, labels)
    true, false = (
        loss.discriminator(torch.cat([shares, x], 1)).sigmoid() for x in (photo, picture)
    )
    found, terms = loss(pictures, photos, labels)
    assert loss.names == ("input", "adversary")
    torch.testing.assert_close(terms[0], (pictures[:, 0] - photos).abs().mean().detach())
    torch.testing.assert_close(terms[1], -false.log().mean().detach())
    torch.testing.assert_close(found.detach(), 100 / 127.5 * terms[0] + terms[1])
    judged, _ = loss.learn(pictures, photos, labels)
    torch.testing.assert_close(judged, -(true.log().mean() + (1 - false).log().mean()) / 2)


def test_gan_semantic_against_its_equations() -> None:
    loss, pictures, photos, labels = example("gan-semantic")
    shares, photo, picture = inputs(photos, pictures, labels)
    true, false = loss.discriminator(photo), loss.discriminator(picture)
    found, terms = loss(pictures, photos, labels)
    assert loss.names == ("input", "adversary", "segmentation")
    expected = -false[:, 0].sigmoid().log().mean() + misread(false[:, 1:], shares)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(terms[1:].sum(), found.detach())
    judged, _ = loss.learn(pictures, photos, labels)
    real = true[:, 0].sigmoid().log().mean() + (1 - false[:, 0].sigmoid()).log().mean()
    torch.testing.assert_close(judged, -real / 2 + misread(true[:, 1:], shares))


@pytest.mark.parametrize("kind", ADVERSARIAL)
def test_network_and_discriminator_learn_apart(kind: str) -> None:
    loss, pictures, photos, labels = example(kind)
    loss(pictures, photos, labels)[0].backward()
    assert pictures.grad is not None and pictures.grad.abs().min() > 0
    assert all(p.grad is None for p in loss.parameters())
    pictures.grad = None
    loss.learn(pictures, photos, labels)[0].backward()
    assert pictures.grad is None
    for name, parameter in loss.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", ADVERSARIAL)
def test_photos_too_small_to_judge_are_named(kind: str) -> None:
    loss, pictures, photos, labels = example(kind)
    with pytest.raises(BadInput, match=r"compared at 23x41, but .*Loss needs 24 pixels"):
        loss(pictures[..., :23, :], photos[..., :23, :], labels)
    loss(pictures[..., :24, :24], photos[..., :24, :24], labels)


@pytest.mark.parametrize(
    ("name", "steps", "rate"),
    [("image", 60, 0.01), ("unet", 60, 0.002), ("dilated", 60, 0.01), ("pix2pix", 30, 0.002)],
)
def test_baselines_learn_colours(root: Path, name: str, steps: int, rate: float) -> None:
    progress = train(make(root, name, steps=steps, learning_rate=rate))
    assert progress[-1].terms["input"] < 0.8 * progress[0].terms["input"]
    if name == "pix2pix":
        assert set(progress[0].terms) == {"input", "adversary", "discriminator"}


def test_gan_semantic_learns_to_show_the_layout(root: Path) -> None:
    progress = train(make(root, "gan-semantic", steps=60, learning_rate=0.002))
    assert progress[-1].terms["segmentation"] < 0.8 * progress[0].terms["segmentation"]


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_the_discriminator_finds_out_a_network_that_stands_still(root: Path, name: str) -> None:
    trainer = make(root, name)
    sample = trainer.windows.window(trainer.windows.pairs[0][0])
    labels = sample.labels[None]
    rendered = trainer.model(labels)
    losses = []
    for _ in range(15):
        assert trainer.adversary
        trainer.adversary.backward(rendered, [sample.photo], labels)
        trainer.adversary.step(1e-3)
        losses.append(float(trainer.adversary.loss))
    trainer.close()
    assert losses[-1] < 0.5 * losses[0]


def same(a: Any, b: Any, where: str = "") -> None:
    """Equal to the bit, through tables and lists."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        for i, pair in enumerate(zip(a, b, strict=True)):
            same(*pair, f"{where}[{i}]")
    else:
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b, where


@pytest.mark.parametrize("name", ["dilated", *ADVERSARIAL])
def test_resuming_equals_not_stopping(root: Path, name: str) -> None:
    options: dict[str, Any] = {"steps": 10, "sample_every": 10, "ema": 0.9, "flip": True}
    train(make(root, name, **options))
    train(make(root, name, "stopped", **options), stop_at=5)
    resumed = make(root, name, "stopped", **options, resume=True)
    assert resumed.step == 5
    train(resumed)
    runs = [root.parent / out for out in ("run", "stopped")]
    first, second = (checkpoint.load_training(run / "ckpt.pt") for run in runs)
    assert ("adversary" in first) == (name in ADVERSARIAL)
    same(first, second)
    for file in ("metrics.jsonl", "samples/step_0000010.png"):
        assert (runs[0] / file).read_bytes() == (runs[1] / file).read_bytes()


@pytest.mark.parametrize("name", ["unet", "dilated"])
def test_a_checkpoint_renders_and_is_no_engine(
    root: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    trainer = make(root, name, steps=2)
    train(trainer)
    run = root.parent / "run"
    assert checkpoint.load(run).kind == name
    safe = root.parent / "same.safetensors"
    checkpoint.save(safe, checkpoint.load(run))
    labels = layouts((24, 40))
    expected = to_uint8(trainer.model(labels)).detach().numpy()
    assert expected.std() > 1
    for path in (run, safe):
        found = Engine.open(path, precision="fp32").render(labels.numpy())
        np.testing.assert_allclose(found.astype(int), expected.astype(int), atol=1)
    with pytest.raises(Mismatch, match="runs on the backend eager, not other"):
        Engine.open(run, backend="other")
    with pytest.raises(Mismatch, match=f"kind '{name}'.*engines are built of cascades"):
        build_engine(run, root.parent / "out.crn")
    for arguments, code in (
        (["build-engine", str(run), "-o", str(root.parent / "out.crn")], 4),
        (["info", str(run)], 0),
    ):
        with pytest.raises(SystemExit) as exited:
            cli.main(arguments)
        assert exited.value.code == code
    out, err = capfd.readouterr()
    assert err.count("\n") == 2 and "engines are built of cascades" in err
    assert f"{name}, to compare with" in out
    assert not (root.parent / "out.crn").exists()
    with pytest.raises(Mismatch, match="kind, base size"):
        make(root, "image", "next", init_from=run)


def test_a_cascade_trained_by_another_loss_is_a_cascade(root: Path) -> None:
    train(make(root, "gan-semantic", steps=2))
    run = root.parent / "run"
    assert checkpoint.load(run).kind == "cascade"
    build_engine(run, root.parent / "out.crn")


def test_baselines_differ_from_camvid_in_what_they_are() -> None:
    cascade = recipes.read("camvid")
    for name in ("image", "unet", "dilated", "pix2pix", "gan-semantic"):
        found = recipes.read(f"baseline-{name}")
        for part in ("network", "label_set", "data", "validation"):
            assert getattr(found, part) == getattr(cascade, part), (name, part)
        steps = ("steps", "epochs", "batch", "learning_rate", "flip")
        assert all(getattr(found.training, s) == getattr(cascade.training, s) for s in steps)
    assert recipes.read("baseline-dilated").spec.flops() == pytest.approx(
        cascade.network.flops(), rel=0.05
    )


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("baseline.kind=vgg", "kind is 'vgg'"),
        ("baseline.width=0", "baseline.width is 0"),
        ("baseline.depth=2", "unknown key 'depth'"),
        ("network.images=2", "images is 2"),
        ("training.recompute=true", "training.recompute is True"),
        ("training.beta1=1.0", "training.beta1 is 1.0"),
        ("loss.calibrate_at=5", "set loss.calibrate_at = 0"),
    ],
)
def test_mistakes_are_named(override: str, named: str) -> None:
    with pytest.raises(BadInput, match=named):
        recipes.read("baseline-pix2pix", [override])


@pytest.mark.parametrize(
    "text", ["[", "[1]", "{}", '{"kind": "unet", "size": [1, 2], "classes": 2}', '{"kind": 1}']
)
def test_a_damaged_spec_is_bad_input(text: str) -> None:
    with pytest.raises(BadInput, match="spec:"):
        BaselineSpec.from_json(text)
