"""The verbs of the command are rows of a table."""

import pytest

from earlycrop_lab.cli import OVERVIEW, VERBS, main
from earlycrop_lab.verbs.verb import Verb


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_a_verb_has_a_help_of_its_own_and_a_place_in_the_overview(verb: Verb, capsys):
    assert f"\n  earlycrop {verb.name} " in OVERVIEW
    with pytest.raises(SystemExit) as left:
        main([verb.name, "--help"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: earlycrop {verb.name} ")


def test_an_option_of_one_verb_is_none_of_another(capsys):
    assert main(["demo", "--method", "snip"]) == 2
    assert "demo has no option '--method'" in capsys.readouterr().err
    assert main(["why", "flow", "--sed", "1"]) == 2
    assert "why has no option '--sed'. Did you mean '--seeds'" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name, verb in VERBS.items() if not verb.shared])
def test_what_processes_cannot_do_together_says_so(name, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    positional = {"why": ["flow"], "show": ["RUN"], "report": ["RESULTS"], "pack": ["RESULTS"]}.get(name, [])
    assert main([name, *positional]) == 2
    assert f"only train can share them: start {name} without torchrun" in capsys.readouterr().err
