"""The structure engine on the whole zoo: what it cuts, leaves whole or refuses, and whether the cuts are right.

    python -m benchmarks.zoo [--random 500] [--quick]

Every network of `tests/cases` gets unique values far from initialisation, in float64. Random sets of 30, 70 and 90 % of
its classes are removed from a copy, and the independent oracle of `tests/oracles.py` (survivors found by value, all
else zeroed in the dense network) compares outputs, running statistics and gradients, in eval and in train mode. A
network is wrong if the difference is above 1e-9, the cut network does not run, or the engine crashes. The rows are
written to results/benchmarks/zoo.json; the exit code is 1 if any network is wrong.
"""

import argparse
import copy
import random
import sys
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks.record import write
from earlycrop.errors import TraceError
from earlycrop.structure import cut, trace
from tests.cases import CASES
from tests.oracles import NotASubnetwork, attribute_faults, choose, disagreement, make_unique, tensors
from tests.structure.random_graphs import Net, example, random_steps

PARTS = (0.3, 0.7, 0.9)


def judge(build: Callable[[], nn.Module], inputs: tuple, norms: dict | None = None) -> dict:
    """Trace, cut at each part and compare one network."""
    torch.manual_seed(0)
    model = build().double()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            structure = trace(model, inputs)
    except TraceError as error:
        return {"fate": "refused", "classes": 0, "error": 0.0, "why": str(error)}
    except Exception as error:
        return {"fate": "wrong", "classes": 0, "error": float("inf"), "why": f"crash: {type(error).__name__}: {error}"}
    make_unique(model)
    found = {"fate": "cut" if len(structure) else "whole", "classes": len(structure), "error": 0.0}
    sizes = {(name, dim): size for name, tensor in tensors(model).items() for dim, size in enumerate(tensor.shape)}
    classes = [[(member.tensor, member.dim, member.index) for member in one.members] for one in structure.classes]
    for part in PARTS if classes else ():
        smaller = copy.deepcopy(model)
        try:
            cut(structure, smaller, choose(sizes, classes, part, seed=round(10 * part)), None)
            errors = [disagreement(model, smaller, inputs, training, norms) for training in (False, True)]
        except (NotASubnetwork, ValueError) as error:
            return {**found, "fate": "wrong", "error": float("inf"), "why": f"{part}: {error}"}
        found["error"] = max(found["error"], *errors)
        if found["error"] > 1e-9 or attribute_faults(smaller):
            found |= {"fate": "wrong", "why": f"{part}: {errors} {attribute_faults(smaller)}"}
            break
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=0, help="number of random networks to add")
    parser.add_argument("--quick", action="store_true", help="leave out the networks that the tests mark slow")
    parser.add_argument("--families", nargs="*", help="only these files and folders of tests/cases")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    models = []
    for name, case in CASES.items():
        wanted = not arguments.families or case.family in arguments.families
        if wanted and not (arguments.quick and case.slow):
            models.append((case.family, name, case.build, case.inputs(), case.norms))
    generator = random.Random(0)
    for number in range(arguments.random):
        kind, steps = random_steps(generator)
        models.append(("random", f"{number}", partial(Net, kind, steps), (example(kind),), None))
    results = []
    for family, name, build, inputs, norms in models:
        results.append({"family": family, "model": name, **judge(build, inputs, norms)})
        if "why" in results[-1]:
            print(f"{results[-1]['fate']}: {name}: {results[-1]['why'].splitlines()[0]}", file=sys.stderr)
    rows = [
        summary(family, [one for one in results if one["family"] == family])
        for family in dict.fromkeys(one["family"] for one in results)
    ]
    rows.append(summary("all of the zoo", [one for one in results if one["family"] != "random"]))
    print(f"wrote {write('zoo', rows, parts=PARTS, models=results)}")
    return int(any(one["fate"] == "wrong" for one in results))


def summary(family: str, results: list[dict]) -> dict:
    fates = [one["fate"] for one in results]
    counts = {fate: fates.count(fate) for fate in ("cut", "whole", "refused", "wrong")}
    classes, error = sum(one["classes"] for one in results), max(one["error"] for one in results)
    return {"family": family, "models": len(results), **counts, "classes": classes, "largest_error": error}


if __name__ == "__main__":
    sys.exit(main())
