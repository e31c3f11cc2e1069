"""Which sources callbacks see, whatever a trainer was given."""

from types import SimpleNamespace

import pytest

from ufo.callbacks.sources import sources_of
from ufo.data.module import UFODataModule
from ufo.data.source import Source


@pytest.mark.parametrize("data", [None, SimpleNamespace()])
def test_no_sources_without_data_of_ours(data):
    assert list(sources_of(SimpleNamespace(datamodule=data))) == []


def test_the_sources_of_the_data():
    source = Source("a/caption", "caption", train=lambda: None)
    assert list(sources_of(SimpleNamespace(datamodule=UFODataModule([source])))) == [source]
