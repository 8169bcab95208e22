"""A layer without a mask and a quantizer of ours is refused by its name and kind, until it is named to stay as it is."""

import pytest
import torch
from torch import nn

from stages.ops.pattern import NMPattern
from stages.quantize.layers import choose_layers
from stages.sparsify.layers import select_layers

WIDTH = 16
KINDS = {
    "Conv1d": lambda: nn.Conv1d(WIDTH, WIDTH, 3, padding=1),
    "Conv3d": lambda: nn.Conv3d(WIDTH, WIDTH, 1),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(WIDTH, WIDTH, 1),
    "Bilinear": lambda: nn.Bilinear(WIDTH, WIDTH, WIDTH),
    "MultiheadAttention": lambda: nn.MultiheadAttention(WIDTH, 4),
    "GRU": lambda: nn.GRU(WIDTH, WIDTH),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)),
    "weight norm, spectral": lambda: nn.utils.spectral_norm(nn.Linear(WIDTH, WIDTH)),
}


class Foreign(nn.Module):
    """The odd layer stands where a model may have one; whether it runs does not matter to who looks for it."""

    def __init__(self, odd):
        super().__init__()
        self.first, self.odd = nn.Linear(WIDTH, WIDTH), odd
        self.inner, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, features):
        features = self.first(features)
        features = self.odd(features) if isinstance(self.odd, nn.Linear) else features
        return self.last(self.inner(features))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_refused_by_its_name_and_left_alone_where_it_is_named(kind):
    model, images = Foreign(KINDS[kind]()), torch.randn(2, WIDTH)
    with pytest.raises(ValueError, match=rf"^odd .*{kind}.* name it in dense_layers"):
        select_layers(model, pattern=NMPattern(2, 4))
    assert select_layers(model, pattern=NMPattern(2, 4), dense_layers=["odd*"]) == ("inner",)
    bits = {"weight_bits": 8, "activation_bits": 8}
    with pytest.raises(ValueError, match=rf"^odd .*{kind}.* name it in unquantized_layers"):
        choose_layers(model, images, **bits)
    assert list(choose_layers(model, images, **bits, unquantized_layers=["odd*"])) == ["first", "inner", "last"]
