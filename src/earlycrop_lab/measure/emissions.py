"""Energy and CO₂ of a run, by CodeCarbon's offline tracker, and whether its power was measured or assumed."""

import logging
import signal
import threading
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

COUNTRY = "DEU"
"""The default country of the electricity mix (ISO 3166-1 alpha-3): Germany, where the authors worked."""


@dataclass(frozen=True)
class Emissions:
    """Energy and CO₂ of a run.

    Args:
        grams_co2: CO₂ equivalent of the energy in grams, for the country's electricity mix; None if not measured.
        kwh: Energy in kilowatt hours, PUE included; None if not measured.
        country: ISO 3166-1 alpha-3 code of the country.
        pue: Power usage effectiveness: energy of the whole site over energy of the machine; 1 counts the machine alone.
        power: What of the power was measured and what was assumed, in words.
        seconds: The measured time, in seconds.
    """

    grams_co2: float | None
    kwh: float | None
    country: str
    pue: float
    power: str
    seconds: float = 0.0

    def including(self, seconds: float) -> "Emissions":
        """Extrapolated, at the mean power, to a time that is longer by that many unmeasured seconds."""
        if self.kwh is None or self.grams_co2 is None or not seconds or not self.seconds:
            return self
        more = 1 + seconds / self.seconds
        return replace(
            self,
            grams_co2=self.grams_co2 * more,
            kwh=self.kwh * more,
        )


class Tracker:
    """`with Tracker("DEU", pue=1.0) as tracker: train()`, then `tracker.emissions`.

    It uses no network, writes no file and never stops a run: where CodeCarbon fails, `emissions.power` says how. It
    counts the whole machine, so other programs that run at the same time are included. Loaded with the `state_dict` of
    a tracker in an earlier process, it continues from there.

    Args:
        country: ISO 3166-1 alpha-3 code of the country.
        pue: Power usage effectiveness of the site.
        every: Seconds between two readings of the power.
        counts: Whether to count at all: where several processes work on one run, only one of them does.
    """

    def __init__(self, country: str = COUNTRY, pue: float = 1.0, every: float = 10.0, counts: bool = True):
        self.country, self.pue = country, pue
        self._failed = ""
        self._tracker: Any = None
        self._emissions: Emissions | None = None
        self._start = time.perf_counter()
        self._earlier: Spent = (0.0, 0.0, 0.0)
        if not counts:
            self._failed = "another process counts"
            return
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
                    output_methods=[],  # write and send nothing, whatever a .codecarbon.config says
                    allow_multiple_runs=True,
                    log_level=logging.CRITICAL,
                )
        except Exception as error:  # whatever goes wrong with a measurement, the run goes on
            self._failed = f"{type(error).__name__}: {error}"
        finally:
            for number, handler in handlers.items():  # CodeCarbon would turn Ctrl+C into a plain exit
                signal.signal(number, handler)

    def __enter__(self) -> "Tracker":
        self._start = time.perf_counter()
        if self._tracker is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._tracker.start()  # swallows its own exceptions
        return self

    def __exit__(self, *exception) -> None:
        self._emissions = self._stop()

    @property
    def emissions(self) -> Emissions:
        """The measurement, available once the block has ended."""
        if self._emissions is None:
            raise RuntimeError("Ask for emissions after the tracker's block, not within it.")
        return self._emissions

    def state_dict(self) -> dict[str, Any]:
        """What was spent so far, in earlier processes and this one."""
        grams_co2, kwh, seconds = _sum(self._earlier, self._spent())
        return {"grams_co2": grams_co2, "kwh": kwh, "seconds": seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from that; what this process has spent so far is not counted."""
        grams_co2, kwh, seconds = self._spent()
        now = (None if grams_co2 is None else -grams_co2, None if kwh is None else -kwh, -seconds)
        self._earlier = _sum((state["grams_co2"], state["kwh"], state["seconds"]), now)

    def _spent(self) -> "Spent":
        """Grams of CO₂, kilowatt hours and seconds of this process."""
        seconds = time.perf_counter() - self._start
        try:
            kilograms = self._tracker.flush()
            return 1000 * kilograms, self._tracker._total_energy.kWh, seconds
        except Exception:  # whatever goes wrong with a measurement, the run goes on
            return None, None, seconds

    def _stop(self) -> Emissions:
        if self._tracker is None:
            return Emissions(None, None, self.country, self.pue, f"not measured: {self._failed}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                kilograms = self._tracker.stop()
            data = self._tracker.final_emissions_data
            if kilograms is None or not data.energy_consumed:
                return Emissions(None, None, self.country, self.pue, "not measured: CodeCarbon gave no figure")
            now = (1000 * kilograms, data.energy_consumed, time.perf_counter() - self._start)
            grams_co2, kwh, seconds = _sum(self._earlier, now)
            return Emissions(grams_co2, kwh, self.country, self.pue, self._power(data), seconds)
        except Exception as error:
            return Emissions(None, None, self.country, self.pue, f"not measured: {type(error).__name__}: {error}")

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


Spent = tuple[float | None, float | None, float]


def _sum(a: Spent, b: Spent) -> Spent:
    """The sum of two measurements; an entry that is unknown in one of them is unknown in the sum."""
    grams_co2, kwh = (None if x is None or y is None else x + y for x, y in zip(a[:2], b[:2], strict=True))
    return grams_co2, kwh, a[2] + b[2]


def check_country(code: str) -> str:
    """The code, if CodeCarbon knows the country's electricity mix.

    Raises:
        ValueError: CodeCarbon does not know it.
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
