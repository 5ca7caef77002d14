"""The graph in its one form against the textbook form."""

import dataclasses

import pytest

torch = pytest.importorskip("torch", reason="the reference ops need torch")

import textbook  # noqa: E402
from crn_fast import cascade  # noqa: E402
from crn_fast.kernels import reference  # noqa: E402
from crn_fast.module import Cascade  # noqa: E402
from crn_fast.spec import CascadeSpec  # noqa: E402
from crn_fast.weights import arrange  # noqa: E402
from tolerance import assert_close  # noqa: E402

SPECS = {
    "one stage": CascadeSpec(widths=(5,), base=(3, 4), classes=3),
    "odd base": CascadeSpec(widths=(7, 6, 5, 3), base=(3, 5), classes=4),
    "several images": CascadeSpec(widths=(6, 5, 4), base=(2, 3), classes=5, images=3),
    "one pixel": CascadeSpec(widths=(4, 6, 3), base=(1, 2), classes=2),
}


def network(spec: CascadeSpec) -> Cascade:
    """Random weights everywhere, so that no parameter can be ignored unseen."""
    torch.manual_seed(0)
    model = Cascade(spec).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return model


def layouts(spec: CascadeSpec, n: int) -> "torch.Tensor":
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, spec.classes, (n, *spec.size), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("upsampling", ["align_corners", "half_pixel"])
@pytest.mark.parametrize("name", SPECS)
def test_equals_the_textbook_form_with_gradients(name: str, upsampling: str) -> None:
    spec = dataclasses.replace(SPECS[name], upsampling=upsampling)
    model, labels = network(spec), layouts(spec, 3)
    found = model(labels)
    found.sin().sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    expected = textbook.synthesize(spec, dict(model.named_parameters()), labels)
    expected.sin().sum().backward()
    assert found.shape == (3, spec.images, *spec.size, 3)
    assert_close(found, expected, 1e-10)
    for parameter_name, parameter in model.named_parameters():
        if parameter.numel() > 1:
            assert_close(gradients[parameter_name], parameter.grad, 1e-10)


def test_float32_is_close_to_float64() -> None:
    spec = SPECS["odd base"]
    model, labels = network(spec), layouts(spec, 2)
    with torch.no_grad():
        oracle = model(labels)
        assert_close(model.float()(labels), oracle, 1e-4)


def test_samples_of_a_batch_do_not_mix() -> None:
    spec = SPECS["odd base"]
    model, labels = network(spec), layouts(spec, 3)
    with torch.no_grad():
        together = model(labels)
        for i in range(3):
            assert_close(model(labels[i : i + 1])[0], together[i], 1e-12)


def test_render_gives_clipped_rounded_bytes() -> None:
    spec = SPECS["several images"]
    model, labels = network(spec), layouts(spec, 2)
    weights = arrange(spec, dict(model.named_parameters()))
    with torch.no_grad():
        raw = cascade.synthesize(reference, spec, weights, labels)
        pictures = cascade.render(reference, spec, weights, labels)
    assert pictures.dtype == torch.uint8
    assert (raw < 0).any() and (raw > 255).any()
    expected = torch.floor(raw.clamp(0, 255) + 0.5).to(torch.uint8)
    assert torch.equal(pictures, expected)
