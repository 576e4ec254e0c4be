"""charforge: write who a model should be, train it to be that, and measure whether it became that."""

__version__ = "0.1.0"
