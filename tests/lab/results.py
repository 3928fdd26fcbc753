"""Made-up results of runs, for tables and pictures."""

from earlycrop_lab.measure.emissions import Emissions
from earlycrop_lab.measure.record import Columns, Epoch
from earlycrop_lab.runs import Result
from earlycrop_lab.tasks.description import Description


def columns(test_accuracy: float = 0.5, **said) -> Columns:
    """Of a small dense run, but for what is said."""
    dense = {
        "metrics": {"test_accuracy": test_accuracy},
        "weight_sparsity": None,
        "node_sparsity": None,
        "parameters_before": 2000,
        "parameters_after": 2000,
        "flops_before": 4000,
        "flops_after": 4000,
        "dense_seconds": 1.0,
        "scoring_seconds": 0.5,
        "sparse_seconds": 2.0,
        "evaluation_seconds": 0.1,
        "dense_step_milliseconds": 20.0,
        "dense_step_cpu_milliseconds": 30.0,
        "dense_steps_timed": 50,
        "sparse_step_milliseconds": None,
        "sparse_step_cpu_milliseconds": None,
        "sparse_steps_timed": 0,
        "dense_memory_bytes": 4_000_000,
        "sparse_memory_bytes": None,
        "dense_cuda_bytes": None,
        "sparse_cuda_bytes": None,
        "process_bytes": None,
        "disk_bytes": 8_000,
        "grams_co2": None,
        "kwh": None,
        "optimizer_steps": 40,
    }
    return Columns(**{**dense, **said})


def report(reason: str = "trigger", unit: str = "channels", **said) -> dict:
    """Of a cut at epoch 2: two layers, of which the first loses three quarters."""
    look = {"learning_rate": 2e-3, "threshold": 0.05}
    counts = {"prunable": 1800, "params": 2000, "nodes": 40, "flops": 4000.0}
    return {
        "method": "earlycrop-s",
        "unit": unit,
        "reason": reason,
        "epoch": 2.0,
        "seconds": 0.25,
        "samples": 512,
        "before": counts,
        "after": {"prunable": 90, "params": 150, "nodes": 10, "flops": 800.0},
        "node_sparsity": 0.75 if unit == "channels" else None,
        "widths": [{"layer": "conv", "before": 40, "after": 10}, {"layer": "fc", "before": 10, "after": 10}],
        "frozen": [],
        "collapsed": [],
        "curve": [
            {"epoch": 1.0, "value": 0.5, "signal": None, **look},
            {"epoch": 2.0, "value": 0.51, "signal": 0.04, **look},
        ],
        **said,
    }


def result(description: Description, cut: dict | None = None, **said) -> Result:
    """Of four epochs, with that cut."""
    environment = {
        "cpu": "Some CPU",
        "device": "cpu",
        "threads": 1,
        "cpus": 2,
        "load": 0.5,
        "load_after": 0.75,
        "packages": {"torch": "2"},
    }
    phases = ["dense"] * 4 if cut is None else ["dense", "dense", "sparse", "sparse"]
    epochs = [Epoch(n + 1, p, 2.0 / (n + 1), 0.4, 0.2 * (n + 1), 1e-3, 2e-3, 1.0 + n) for n, p in enumerate(phases)]
    emissions = Emissions(None, None, "DEU", 1.0, "not measured: no sensor")
    return Result(description, environment, epochs, cut, columns(**said), emissions)
