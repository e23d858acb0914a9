"""The doctor: checks of the servers, the destinations and the installation, each with a remedy for its findings."""
