"""The command line, the demo's training, what it measures, and the plots."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fusedact
from fusedact import demo, describe, registry
from fusedact.looking import cli


def listed(capsys):
    """The lines that `list` prints, and for each activation its lines as rows of cells."""
    assert cli.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (head,) = (line for line in lines if "module" in line and "kernel" in line)
    starts = [head.index(title) for title in ("name", "module", "formula", "in PyTorch", "kernel", "kept")]
    rows = {}
    for line in lines[lines.index(head) + 2 :]:
        if not line.strip():
            break
        cells = [line[low:high].strip() for low, high in zip(starts, [*starts[1:], None], strict=True)]
        if cells[1]:
            found = rows.setdefault(cells[0], [])
        found.append(cells)
    return lines, rows


def test_list_shows_every_activation_whole(capsys):
    lines, rows = listed(capsys)
    assert max(map(len, lines)) <= 110
    assert list(rows) == list(fusedact.names())
    for name, cells in rows.items():
        spec = registry.get(name)
        assert cells[0][1] == spec.module
        assert [row[0] for row in cells[1:] if row[0]] == [f"({alias})" for alias in spec.aliases]
        told = " ".join(row[2] for row in cells).strip().replace("- ", "-")
        numbers = ", ".join(f"{p}{'' if p.fixed else '*'}" for p in spec.parameters)
        numbers += "".join(f"{o.name}={o.default!r}" for o in spec.options)
        assert told.replace(" ", "") == (spec.formula + numbers).replace(" ", "")
        assert not any("…" in cell for row in cells for cell in row)


def test_list_tells_twins_kernels_and_what_is_kept(capsys):
    _, rows = listed(capsys)
    cells = {name: [" ".join(filter(None, (row[i] for row in rows[name]))) for i in (3, 4, 5)] for name in rows}
    assert cells["elu"] == ["F.elu", "hand-written", "x"]
    assert cells["gelu_tanh"][0] == "F.gelu ('tanh')"
    assert cells["relu"][2] == "x; y"
    assert cells["identity"] == ["nn.Identity", "none", "nothing"]
    assert cells["swish"] == ["", "hand-written", "x"]
    assert cells["erf"] == ["", "generated", "x"]


@pytest.mark.parametrize("name", fusedact.names("elementwise"))
def test_what_is_said_to_be_kept_is(name):
    """By bytes beyond the output: of PyTorch's operator on few elements, if there is one, and of pieces on many."""
    spec = registry.get(name)
    module = getattr(fusedact, spec.module)(*(p.default for p in spec.parameters if p.required_by_module))
    ours, torchs = describe.kept(spec)
    paths = {n: fusedact.explain(module, torch.zeros(n, requires_grad=True)).kind for n in (2**10, 2**20)}
    assert (paths[2**10] == "aten") == bool(torchs) and paths[2**20] in ("aten", "pieces")
    for elements, kind in paths.items():
        said = {"aten": torchs, "pieces": ours}.get(kind)
        if said is not None:
            beyond = [word for word in said.split(", ") if word not in ("y", "nothing")]
            assert demo.bytes_kept(module, elements) == 4 * len(beyond)


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
    assert "What the parameters learned" not in out
    assert "ReLUSigmoid(0.1)" in out
    assert "4 B/element" in out
    assert plot.read_bytes().startswith(b"\x89PNG")


LEARNED = {"PReLU, a slope per unit": ("weight", 0.25, demo.HIDDEN), "ReLUSigmoid, learned": ("threshold", 0.1, 1)}


def test_demo_shows_what_the_parameters_learned(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "ACTIVATIONS", {name: demo.ACTIVATIONS[name] for name in LEARNED})
    plot = tmp_path / "curves.png"
    assert cli.main(["demo", "--epochs", "1", "--plot", str(plot), "--device", "cpu"]) == 0
    below = capsys.readouterr().out.split("What the parameters learned on digits")[1]
    rows = {words[0].strip(): words[1:] for line in below.splitlines() if len(words := line.strip("│").split("│")) > 1}
    for name, (parameter, start, entries) in LEARNED.items():
        assert [word.strip() for word in rows[name][:3]] == [parameter, str(entries), f"{start:.3f}"]
        assert (" to " in rows[name][4]) == (entries > 1)
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_parameters_move_on_the_first_data_set(monkeypatch):
    monkeypatch.setattr(demo, "ACTIVATIONS", {name: demo.ACTIVATIONS[name] for name in ("ELU", *LEARNED)})
    data = [demo.load_digits(), demo.load_circles()]
    elu, *learned = demo.run(data, {"digits": 3, "circles": 1})
    assert elu.moved == []
    for result in learned:
        (moved,) = result.moved
        assert (moved.name, pytest.approx(moved.start), moved.entries) == LEARNED[result.activation]
        values = getattr(result.module, moved.name).detach()
        assert (moved.mean, moved.low, moved.high) == (values.mean(), values.min(), values.max())
        assert (values - moved.start).abs().max() > 1e-3
        assert result.bytes_kept == 4


@pytest.mark.parametrize("name", demo.ACTIVATIONS)
def test_every_activation_learns(name):
    digits = demo.train(demo.load_digits(), demo.ACTIVATIONS[name], epochs=20).accuracy
    circles = demo.train(demo.load_circles(), demo.ACTIVATIONS[name], epochs=30).accuracy
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
