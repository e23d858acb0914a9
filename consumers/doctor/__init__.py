"""The doctor: checks of the servers, the destinations and the installation, each with a remedy for its findings."""

from consumers.doctor.check import CheckContext, Finding, Severity
from consumers.doctor.run import examine

__all__ = ["CheckContext", "Finding", "Severity", "examine"]
