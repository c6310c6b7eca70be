"""Facts with a date and a source: instances, GPUs, models, engines, versions, prices and regional offerings."""

from catalog.load import Catalog, load
from catalog.prices import Prices
from catalog.records import CatalogError

__all__ = ["Catalog", "CatalogError", "Prices", "load"]
