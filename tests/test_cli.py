"""The command line, the demo's training, what it measures, and the plots."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fusedact
from fusedact import cli, demo, plotting


def test_list_names_every_activation(capsys):
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in fusedact.names("elementwise"))


def test_doctor_tells_versions_and_paths(capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert torch.__version__ in out
    assert "pieces" in out
    assert "aten" in out


def test_demo_prints_a_table_and_writes_the_plot(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "ACTIVATIONS", {"ReLUSigmoid(0.1)": demo.ACTIVATIONS["ReLUSigmoid(0.1)"]})
    plot = tmp_path / "curves.png"
    assert cli.main(["demo", "--epochs", "1", "--plot", str(plot), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "ReLUSigmoid(0.1)" in out
    assert "4 B/element" in out
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", demo.ACTIVATIONS)
def test_every_activation_learns(name):
    digits, _ = demo.train(demo.load_digits(), demo.ACTIVATIONS[name], epochs=20)
    circles, _ = demo.train(demo.load_circles(), demo.ACTIVATIONS[name], epochs=30)
    assert digits >= 0.95
    assert 0.4 < circles < 0.6 if name == "identity" else circles >= 0.95


def npz(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def test_mnist_in_the_format_of_keras(tmp_path):
    images, labels = np.random.default_rng(0).integers(0, 255, (20, 28, 28), np.uint8), np.arange(20) % 10
    data = demo.load_mnist(npz(tmp_path / "m.npz", x_train=images, y_train=labels, x_test=images, y_test=labels))
    assert data.train_x.shape == (20, 784)
    assert data.train_x.std().item() == pytest.approx(1.0, abs=1e-3)
    assert data.classes == 10


@pytest.mark.parametrize("kind", ["missing", "other keys", "no archive"])
def test_bad_data(tmp_path, capsys, kind):
    path = tmp_path / "d.npz"
    if kind == "other keys":
        npz(path, images=np.zeros(3))
    if kind == "no archive":
        path.write_text("hello")
    assert cli.main(["demo", "--data", str(path)]) == 1
    assert "--data must be an .npz with x_train, y_train, x_test and y_test" in capsys.readouterr().err


def test_bad_epochs(capsys):
    with pytest.raises(SystemExit):
        cli.main(["demo", "--epochs", "0"])
    assert "must be at least 1, got 0" in capsys.readouterr().err


def test_a_missing_library_is_named(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "rich.console", None)
    assert cli.main(["list"]) == 1
    assert "pip install 'fusedact[demo]'" in capsys.readouterr().err


def test_plot_draws_value_and_derivative():
    figure = plotting.plot("relu_sigmoid", fusedact.ELU(0.5), low=-2, high=2)
    values, slopes = (axes.get_lines() for axes in figure.axes)
    drawn = [line for line in values if len(line.get_xdata()) > 2]
    x = torch.from_numpy(drawn[1].get_xdata())
    np.testing.assert_allclose(drawn[1].get_ydata(), torch.nn.functional.elu(x, 0.5).numpy())
    slope = [line for line in slopes if len(line.get_xdata()) > 2][1]
    np.testing.assert_allclose(slope.get_ydata(), torch.where(x > 0, 1.0, 0.5 * x.exp()).numpy())


@pytest.mark.parametrize(
    ("arguments", "message"), [(((), {}), "name at least one"), ((("elu",), {"low": 3.0, "high": 1.0}), "low must be")]
)
def test_plot_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        plotting.plot(*arguments[0], **arguments[1])
