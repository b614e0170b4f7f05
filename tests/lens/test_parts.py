"""What neurons and features say, against sums and loops spelled out by hand."""

import pytest
import torch
from family_configs import build
from reference import plain_logits
from reference_parts import as_batch, layers_of
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close

from circuitprune import Study
from circuitprune.data.batches import Batch
from circuitprune.engine.gated_parts import GatedParts
from circuitprune.engine.recording import record_writers
from circuitprune.lens.parts import activations, direct_effects
from circuitprune.models.layer_ports import bias_of
from circuitprune.models.zoo import dictionary_path
from circuitprune.runs.settings import load_config


def one_pair(batch: Batch, row: int) -> Batch:
    return Batch(**{name: values[row : row + 1] for name, values in vars(batch).items()})


def at_scale_of(norm: nn.Module, stream: Tensor, part: Tensor) -> Tensor:
    """A share of a norm's input taken through it, its scale that of the whole input."""
    layer_norm = isinstance(norm, nn.LayerNorm)
    gain = norm.weight + 1 if "Gemma" in type(norm).__name__ else norm.weight
    eps = getattr(norm, "eps", None) or getattr(norm, "variance_epsilon", None)
    if layer_norm:
        part, stream = part - part.mean(), stream - stream.mean()
    return gain * part / (stream.square().mean() + eps).sqrt()


def logits_of(model, norm: nn.Module, stream: Tensor, part: Tensor) -> Tensor:
    """What a share of the stream adds to each token's logit, relative to all tokens."""
    through, rows = at_scale_of(norm, stream, part), model.get_output_embeddings().weight
    logits = torch.stack([(row * through).sum() for row in rows])
    return logits - logits.mean()


def seen(model, module: nn.Module, tokens: Tensor, mask: Tensor, output: bool = False) -> Tensor:
    """A module's input, or output, on a plain run."""
    found = []
    if output:
        hook = module.register_forward_hook(lambda _, __, y: found.append(y.detach()))
    else:
        hook = module.register_forward_pre_hook(lambda _, x: found.append(x[0].detach()))
    plain_logits(model, tokens, mask)
    hook.remove()
    return found[0]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "granite"])
def test_an_mlps_neurons_together_say_what_it_writes(padded_batch, family):
    gated = GatedParts(build(family), "neuron")
    names, layer, final = gated.graph.edges, gated.ports.layers[1], gated.ports.final_norm
    parts = [part for part, name in enumerate(names) if name.startswith("m1.n")]
    for row in range(2):
        batch = one_pair(as_batch(padded_batch), row)
        last = int(batch.last)
        strong = activations(gated, parts, batch.clean, batch.mask)[:, 0, last]
        found = (strong.unsqueeze(1) * direct_effects(gated, parts, [batch])).sum(0)
        written = record_writers(gated.ports, batch.clean, batch.mask)
        whole = written[gated.graph.mlp_writer(1), 0, last]
        bias = None if layer.mlp_post_norm is not None else bias_of(layer.down)
        whole = whole if bias is None else whole - layer.scaled(bias)
        stream = seen(gated.model, final, batch.clean, batch.mask)[0, last]
        assert_close(found, logits_of(gated.model, final, stream, whole))
        assert found.abs().max() > 1e-3
    gated.release()


@pytest.fixture(scope="module")
def study() -> Study:
    names = ["level=feature", "features.dictionaries=[zoo/small]", "model.name=zoo/small"]
    sizes = ["task.name=ioi", "task.n_train=4", "task.n_val=0", "task.n_test=6"]
    return Study.from_config(load_config(None, [*names, *sizes]))


def test_the_shipped_dictionarys_features_on_ioi(study):
    gated, parts = study.setup.gated, [study.graph.edge_index(f"m0.f{at}") for at in (3, 100, 477)]
    weights = {k.rpartition(".")[2]: v for k, v in load_file(dictionary_path("zoo/small")).items()}
    names = ("W_enc", "b_enc", "W_dec", "b_dec")
    w_enc, b_enc, w_dec, b_dec = (weights[name].float() for name in names)
    batches = list(study.setup.data.batches("test", 3))
    final = gated.ports.final_norm
    total, n = torch.zeros(3, gated.model.config.vocab_size), 0
    for batch in batches:
        found = activations(gated, parts, batch.clean, batch.mask)
        mlp = layers_of(gated.model)[0].mlp
        written = seen(gated.model, mlp, batch.clean, batch.mask, output=True)
        streams = seen(gated.model, final, batch.clean, batch.mask)
        for row, last in enumerate(batch.last.tolist()):
            for at in range(last + 1):
                pre = (written[row, at] - b_dec) @ w_enc + b_enc
                floor = pre.sort(descending=True).values[11]
                for i, feature in enumerate((3, 100, 477)):
                    expected = max(float(pre[feature]), 0.0) if pre[feature] >= floor else 0.0
                    assert float(found[i, row, at]) == pytest.approx(expected, rel=1e-4, abs=1e-4)
            for i, feature in enumerate((3, 100, 477)):
                total[i] += logits_of(gated.model, final, streams[row, last], w_dec[feature])
            n += 1
    assert_close(direct_effects(gated, parts, batches), total / n, rtol=1e-3, atol=1e-5)
    assert found.count_nonzero()
