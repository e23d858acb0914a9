"""What each role may do on the servers, and nothing else: as nats-server reads it, and as grants for Postgres."""

from consumers.permissions.grants import grants_of
from consumers.permissions.nats_config import render_config
from consumers.permissions.rights import Right, Rights, Role, Work
from consumers.permissions.roles import rights_of

__all__ = ["Right", "Rights", "Role", "Work", "grants_of", "render_config", "rights_of"]
