"""Records of `earlycrop why` are gone on with under the same description, also when an older version wrote them."""

import json
import re
from dataclasses import replace

import pytest

from earlycrop_lab.tasks.classification import Classification
from earlycrop_lab.why.records import RECORDS, asked, before, keep

D = Classification(method="earlycrop-s", sparsity=0.9, network="cnn", epochs=3)


def test_records_of_the_same_description_are_found_again(tmp_path):
    keep(tmp_path, {"asked": repr(D), "runs": [{"accuracy": 0.5}]}, "cpu")
    assert before(tmp_path, D, again=False, name="runs") == [{"accuracy": 0.5}]
    assert before(tmp_path, D, again=True, name="runs") == []
    assert before(tmp_path / "elsewhere", D, again=False, name="runs") == []


def test_records_without_an_option_that_came_later_have_its_default(tmp_path):
    older = re.sub(r", (precision|part|compiled)=[^,)]*", "", repr(D))
    assert older != repr(D)
    assert asked(older) == D
    (tmp_path / RECORDS).write_text(json.dumps({"asked": older, "runs": [1, 2]}))
    assert before(tmp_path, D, again=False, name="runs") == [1, 2]


def test_records_from_before_rescaling_were_measured_without():
    older = re.sub(r", rescale=[^,)]*", "", repr(D))
    assert asked(older) == replace(D, rescale="no")
    snip = Classification(method="snip", sparsity=0.9, network="cnn", epochs=3)
    assert asked(re.sub(r", rescale=[^,)]*", "", repr(snip))) == snip


def test_records_of_another_description_are_refused_and_kept(tmp_path):
    keep(tmp_path, {"asked": repr(D), "runs": []}, "cpu")
    stored = (tmp_path / RECORDS).read_bytes()
    other = Classification(method="earlycrop-s", sparsity=0.9, network="cnn", epochs=4)
    with pytest.raises(ValueError, match=r"is about .*epochs=3.* the question now is about .*epochs=4.* --again"):
        before(tmp_path, other, again=False, name="runs")
    assert (tmp_path / RECORDS).read_bytes() == stored


@pytest.mark.parametrize("source", ["print('run')", "Classification(", "Classification(later=1)", "1"])
def test_what_is_no_description_is_refused_and_not_run(source, capsys):
    with pytest.raises(ValueError, match="is no description that this version knows"):
        asked(source)
    assert capsys.readouterr().out == ""
