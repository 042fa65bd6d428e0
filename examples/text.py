"""A transformer of the library transformers learns to write docstrings, with an activation of this one.

    pip install fusedact transformers
    python examples/text.py
    python examples/text.py --model llama --activation snake --steps 200
    python examples/text.py --by convert

The text is real and on every machine: the docstrings of Python's standard library, as characters. `register` makes the
names known; the configuration says `activation_function="relu_sigmoid"` (GPT-2) or `hidden_act="relu_sigmoid"` (Llama),
and nothing else changes. With `--by convert` the model is made with its own activation, which `fusedact.convert` then
replaces.
"""

from __future__ import annotations

import argparse
import importlib
import inspect

import torch
import transformers
from torch import Tensor

import fusedact
from fusedact.integrations import transformers as integration

# What their configurations say otherwise.
THEIRS = {"gpt2": "gelu_new", "llama": "silu"}
MODULES = (
    "argparse",
    "ast",
    "collections",
    "datetime",
    "decimal",
    "difflib",
    "functools",
    "inspect",
    "json",
    "logging",
)


def docstrings() -> str:
    """The docstrings of modules, and of what is in them."""
    found = []
    for name in MODULES:
        module = importlib.import_module(name)
        for _, member in [(name, module), *sorted(inspect.getmembers(module))]:
            text = inspect.getdoc(member) if inspect.ismodule(member) or inspect.isroutine(member) else None
            text = inspect.getdoc(member) if inspect.isclass(member) else text
            if text and len(text) > 80 and text.isascii():
                found.append(text)
    return "\n\n".join(dict.fromkeys(found))


def network(kind: str, activation: str, characters: int, length: int) -> transformers.PreTrainedModel:
    tokens = {"vocab_size": characters, "bos_token_id": None, "eos_token_id": None}
    if kind == "gpt2":
        sizes = {"n_layer": 2, "n_head": 4, "n_embd": 96, "n_positions": length}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**tokens, **sizes, activation_function=activation))
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 96, "intermediate_size": 256}
    config = transformers.LlamaConfig(**tokens, **sizes, max_position_embeddings=length, hidden_act=activation)
    return transformers.LlamaForCausalLM(config)


def batch(codes: Tensor, size: int, length: int) -> Tensor:
    starts = torch.randint(len(codes) - length, (size, 1))
    return codes[starts + torch.arange(length)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("gpt2", "llama"), default="gpt2")
    parser.add_argument("--activation", default="relu_sigmoid", help="any name of the catalogue; default %(default)s")
    parser.add_argument("--by", choices=("name", "convert"), default="name", help="how the model gets it")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--length", type=int, default=64, help="of a piece of text, in characters")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    text = docstrings()
    alphabet = sorted(set(text))
    code = {c: i for i, c in enumerate(alphabet)}
    codes = torch.tensor([code[c] for c in text])
    print(f"{len(text)} characters, of which {len(alphabet)} different ones")

    torch.manual_seed(0)
    if options.by == "name":
        integration.register()
    given = options.activation if options.by == "name" else THEIRS[options.model]
    net = network(options.model, given, len(alphabet), 2 * options.length).to(options.device)
    if options.by == "convert":
        print(fusedact.convert(net, {"*.act": options.activation, "*.act_fn": options.activation}))
    print(next(m for name, m in net.named_modules() if name.endswith((".act", ".act_fn"))))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for step in range(options.steps):
        given = batch(codes, 16, options.length).to(options.device)
        loss = net(input_ids=given, labels=given).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 0 or step == options.steps - 1:
            print(f"step {step:3}: loss {loss.item():.3f}", flush=True)

    start = torch.tensor([[code[c] for c in "Return "]], device=options.device)
    written = net.eval().generate(
        start, attention_mask=torch.ones_like(start), max_new_tokens=options.length, do_sample=True, pad_token_id=0
    )
    print("".join(alphabet[i] for i in written[0].tolist()))


if __name__ == "__main__":
    main()
