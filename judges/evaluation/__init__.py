"""Any scorer against any benchmark, with numbers that can be compared."""
