"""What is wrong, or will be: each thing looked at on the real servers, with what to do about it."""

from consumers.doctor.examination import examine
from consumers.doctor.finding import Finding, Severity
from consumers.doctor.patient import Patient

__all__ = ["Finding", "Patient", "Severity", "examine"]
