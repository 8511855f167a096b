"""The CSV and console loggers under the name the author's notes import them by."""

from stf.tracking.loggers import ConsoleLogger, CSVLogger

__all__ = ["CSVLogger", "ConsoleLogger"]
