"""Metamers of a ResNet, found by a search, beside exact ones."""

import pytest

from invjax.data import read_arrays


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_a_smoke_run_of_the_search_finds_metamers_of_a_resnet_beside_exact_ones(smoke):
    measured = smoke.measured
    inverse, search = (f"{way}: logit error of a metamer, " for way in ("fi-RevNet, inverse", "ResNet, search"))
    assert (
        measured[f"{inverse}largest"]
        < 1e-3
        < measured["fi-RevNet, inverse, clipped to [0, 1]: logit error of a metamer, median"]
    )
    assert measured[f"{inverse}largest"] < measured[f"{search}median"]
    assert measured[f"{search}median"] < 0.5 * measured["ResNet: logit difference of the two images, median"]
    assert measured["ResNet, search: l2 distance from the nuisance source, mean"] <= 4
    pictures = {"metamers-fi-revnet", "metamers-resnet", "batch-fi-revnet", "batch-resnet"}
    assert smoke.pictures == pictures
    found = read_arrays(smoke.folder / "trials" / "net=ResNet,seed=0" / "arrays.npz")["metamers"]
    assert found.min() >= 0 and found.max() <= 1
