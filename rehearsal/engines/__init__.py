"""The ways to run the program in the rehearsal: see `contract.py`."""
