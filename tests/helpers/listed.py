"""What an index lists, and pieces of the official archives that several tests serve."""

from __future__ import annotations

from typing import Any

from attnbias.data.index import Index


def listed(index: Index) -> list[tuple[str, Any]]:
    return [(record.path, record.target) for record in index.records]


PLACES = {
    "categories_places365.txt": b"/a/airfield 0\n/a/apartment_building/outdoor 1\n/b/beach 2\n",
    "places365_train_standard.txt": b"/b/beach/00000001.jpg 2\n/a/airfield/00000001.jpg 0\n",
    "places365_val.txt": b"Places365_val_00000001.jpg 1\nPlaces365_val_00000002.jpg 0\n",
}
