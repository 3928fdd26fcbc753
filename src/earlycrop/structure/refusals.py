"""Models of which nothing can be cut, whatever they compute."""

from collections.abc import Sequence

import torch
from torch import nn

from earlycrop.errors import EarlyCropError
from earlycrop.structure.named import ignoring


def check_unscripted(model: nn.Module) -> None:
    """Refuse modules that TorchScript has compiled: their code cannot be traced, and has the sizes in it.

    Raises:
        EarlyCropError: there is one; names it.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise EarlyCropError(
                f"{f'`{name}`' if name else 'The model'} is a module of TorchScript, whose code and sizes are fixed. "
                f"Prune the module that it was made from, and script or trace it after the cut."
            )


def check_model(model: nn.Module, ignore: Sequence[str] = ()) -> None:
    """Refuse models without parameters, or with parameters that share memory with each other.

    Args:
        model: The network.
        ignore: Names of modules or parameters that stay whole, and may share memory with each other.

    Raises:
        EarlyCropError: there is nothing to cut, or a cut would part what is tied; names the parameters.
    """
    check_unscripted(model)
    if next(model.parameters(), None) is None:
        raise EarlyCropError(f"This {type(model).__name__} has no parameters, so nothing can leave.")
    ignored, owners = ignoring(model, ignore), dict[tuple[torch.device, int], str]()
    for name, parameter in model.named_parameters():
        if parameter.is_meta or not parameter.numel():
            continue
        other = owners.setdefault((parameter.device, parameter.data_ptr()), name)
        if other != name and not (ignored(name) and ignored(other)):
            raise EarlyCropError(
                f"`{name}` shares its memory with `{other}`, but they are two parameters: a cut would give each a "
                f"memory of its own. Tie them by assigning the parameter itself instead of its `.data`, so that both "
                f"names are one parameter; or clone the data of one of them."
            )
