"""Energy and CO₂ of a run, by CodeCarbon's offline tracker, and whether its power was measured or assumed."""

import logging
import signal
import threading
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

COUNTRY = "DEU"
"""Whose electricity mix counts where none is named (ISO 3166-1 alpha-3): Germany's, where the authors worked."""


@dataclass(frozen=True)
class Emissions:
    """What a run cost in energy and CO₂.

    Args:
        grams_co2: CO₂ equivalent of the energy, for the country's mix of electricity; None if it could not be had.
        kwh: Energy in kilowatt hours, PUE included.
        country: ISO 3166-1 alpha-3 code of the country.
        pue: Power usage effectiveness: energy of the whole site over energy of the machine; 1 counts the machine alone.
        power: How the power was had, in words that say what was measured and what was assumed.
    """

    grams_co2: float | None
    kwh: float | None
    country: str
    pue: float
    power: str


class Tracker:
    """`with Tracker("DEU", pue=1.0) as tracker: train()`, then `tracker.emissions`.

    It asks no network, writes no file and never stops a run: where CodeCarbon fails, `emissions.power` says how. It
    counts the whole machine, so other programs of the same time are in it.

    Args:
        country: ISO 3166-1 alpha-3 code.
        pue: Power usage effectiveness of the site.
        every: Seconds between two looks at the power.
    """

    def __init__(self, country: str = COUNTRY, pue: float = 1.0, every: float = 10.0):
        self.country, self.pue = country, pue
        self._failed = ""
        self._tracker: Any = None
        self._emissions: Emissions | None = None
        handlers = _signal_handlers()
        try:
            from codecarbon import OfflineEmissionsTracker

            logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # its import sets INFO
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._tracker = OfflineEmissionsTracker(
                    country_iso_code=country,
                    pue=pue,
                    measure_power_secs=every,
                    output_methods=[],  # nothing is written or sent, whatever a .codecarbon.config says
                    allow_multiple_runs=True,
                    log_level=logging.CRITICAL,
                )
        except Exception as error:  # whatever a measurement trips over, the run goes on
            self._failed = f"{type(error).__name__}: {error}"
        finally:
            for number, handler in handlers.items():  # CodeCarbon would turn Ctrl+C into a plain exit
                signal.signal(number, handler)

    def __enter__(self) -> "Tracker":
        if self._tracker is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._tracker.start()  # swallows its own exceptions
        return self

    def __exit__(self, *exception) -> None:
        self._emissions = self._stop()

    @property
    def emissions(self) -> Emissions:
        """What was found, once the block has ended."""
        if self._emissions is None:
            raise RuntimeError("Ask for emissions after the tracker's block, not within it.")
        return self._emissions

    def _stop(self) -> Emissions:
        if self._tracker is None:
            return Emissions(None, None, self.country, self.pue, f"not had: {self._failed}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                kilograms = self._tracker.stop()
            data = self._tracker.final_emissions_data
            if kilograms is None or not data.energy_consumed:
                return Emissions(None, None, self.country, self.pue, "not had: CodeCarbon gave no figure")
            return Emissions(1000 * kilograms, data.energy_consumed, self.country, self.pue, self._power(data))
        except Exception as error:
            return Emissions(None, None, self.country, self.pue, f"not had: {type(error).__name__}: {error}")

    def _power(self, data: Any) -> str:
        """One sentence from CodeCarbon's own choice of hardware readings."""
        said = []
        for part in getattr(self._tracker, "_hardware", []):
            mode, tdp = getattr(part, "_mode", None), getattr(part, "_tdp", None)
            match type(part).__name__:
                case "CPU" if mode == "cpu_load":
                    said.append(f"CPU assumed from its load and a nominal {tdp:g} W")
                case "CPU" if mode == "constant":
                    said.append(f"CPU assumed constant at {data.cpu_power / self.pue:.3g} W")
                case "CPU" | "AppleSiliconChip":
                    said.append(f"CPU measured ({mode or 'powermetrics'})")
                case "RAM":
                    said.append(f"memory assumed at {data.ram_power / self.pue:.3g} W")
                case "GPU":
                    said.append("GPU measured (NVML)")
        return "; ".join(sorted(said)) or "assumed"


def check_country(code: str) -> str:
    """The code, if CodeCarbon knows the country's mix of electricity.

    Raises:
        ValueError: If it does not.
    """
    with suppress(ImportError, OSError):
        from codecarbon.input import DataSource

        known = DataSource().get_global_energy_mix_data()
        if code not in known:
            raise ValueError(
                f"No electricity mix is known for the country {code!r}; give an ISO code such as DEU or USA."
            )
    return code


def _signal_handlers() -> dict[int, Any]:
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
