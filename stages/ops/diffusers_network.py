"""A network of diffusers with the weights of a folder. Nothing that could run code is read."""

from __future__ import annotations

from typing import Any

from torch import nn

import stages.ops.torchvision_compat  # noqa: F401 - diffusers does not import without it
from stages.ops.diffusion_folder import CONFIG, NetworkFolder
from stages.ops.weights_file import read_weights


def network_class(name: str) -> type[nn.Module]:
    """The class of diffusers called `name`."""
    import diffusers

    kind: type[nn.Module] = getattr(diffusers, name)
    return kind


def load_network(folder: NetworkFolder) -> nn.Module:
    """The network with its weights in float32, in evaluation mode; tensors are renamed as diffusers does for older releases.

    Raises:
        ValueError: the weights are damaged, no tensors alone, or not all that the network has.
    """
    path = folder.folder / folder.weights
    read_weights(path)  # refuses what holds more than tensors
    try:
        kind: Any = network_class(folder.network)
        loaded, found = kind.from_pretrained(
            str(folder.folder),
            local_files_only=True,
            low_cpu_mem_usage=False,
            use_safetensors=folder.weights.endswith(".safetensors"),
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path} does not fit the {folder.network} of its {CONFIG}: {reason}") from error
    lacking = sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]]))
    if lacking:
        more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        raise ValueError(f"{path} lacks tensors of the {folder.network}, or has others: {', '.join(lacking[:5])}{more}")
    network: nn.Module = loaded.float().eval()
    return network
