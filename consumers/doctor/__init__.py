"""What is wrong, or will be: each thing looked at on the real servers, with what to do about it."""

from consumers.doctor.check import Finding, Patient, Severity
from consumers.doctor.run import examine

__all__ = ["Finding", "Patient", "Severity", "examine"]
