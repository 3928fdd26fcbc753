"""CodeCarbon is asked nothing of the network, writes nothing, and cannot stop a run."""

import signal
import socket
import time

import pytest

from earlycrop_lab.measure.emissions import Tracker, check_country


def test_a_second_of_work_has_emissions_and_leaves_no_trace(tmp_path, monkeypatch, capfd):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGINT)
    with Tracker("DEU", pue=2.0) as tracker:
        end = time.perf_counter() + 0.5
        while time.perf_counter() < end:
            sum(range(1000))
    found = tracker.emissions
    assert found.kwh is not None
    assert found.grams_co2 is not None
    # more than a watt and less than a kilowatt for half a second, twice for PUE
    assert 2 * 0.5 / 3.6e6 < found.kwh < 2 * 1000 * 5 / 3.6e6
    assert 100 < found.grams_co2 / found.kwh < 1000  # grams a kWh of a European grid
    assert "assumed" in found.power or "measured" in found.power
    assert signal.getsignal(signal.SIGINT) is before
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_tracker_that_breaks_costs_the_figure_and_not_the_run(monkeypatch):
    import codecarbon

    def broken(**_):
        raise OSError("no such sensor")

    monkeypatch.setattr(codecarbon, "OfflineEmissionsTracker", broken)
    with Tracker() as tracker:
        pass
    assert tracker.emissions.grams_co2 is None
    assert tracker.emissions.power == "not measured: OSError: no such sensor"


def test_asking_too_early_is_an_error():
    with pytest.raises(RuntimeError, match="after the tracker's block"):
        _ = Tracker().emissions


def test_countries():
    assert check_country("FRA") == "FRA"
    with pytest.raises(ValueError, match="'Atlantis'; give an ISO code"):
        check_country("Atlantis")
